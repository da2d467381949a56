"""The figures of the report: each a plotly figure with a sentence that helps to read it and a table that says the same.

Optuna's own plots where it has them. Colours after Okabe and Ito (2008), which colour-blind readers can tell apart (the
blue a little lighter, for dark pages), with a symbol, dash or pattern of their own each. Backgrounds, grids and fonts
are left to the page, which knows light and dark.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.visualization import plot_optimization_history, plot_parallel_coordinate, plot_slice

from tunesearch.ledger.records import EpochRecord, TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.facts import MEANINGS, short
from tunesearch.reporting.study import Importances
from tunesearch.segmentation.data.checks import DataReport, PartReport
from tunesearch.strategy.asha import Asha
from tunesearch.strategy.confirmation import LEVEL, Confirmation
from tunesearch.strategy.early_stopping import build_stopper

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#2b84c4", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8b949e",
)  # fmt: skip
WEAK_TO_STRONG: tuple[tuple[float, str], ...] = ((0.0, GREY), (0.5, BLUE), (1.0, RED))
"""Visible on white and on black alike."""
OUTCOMES = {
    "completed": (BLUE, "circle"), "stopped": (ORANGE, "x"), "diverged": (RED, "triangle-up"),
    "out_of_memory": (PURPLE, "square"), "infeasible": (PURPLE, "diamond"), "failed": (RED, "cross"),
    "lost": (GREY, "star"), "cancelled": (GREY, "hourglass"), "running": (GREEN, "circle-open"),
}  # fmt: skip
CURVES, LINES, POINTS, EPOCHS, ROWS = 200, 150, 300, 60, 200
"""The most that are shown: learning curves, parallel lines, points of a slice, epochs of a curve, rows of a table."""


@dataclass(frozen=True)
class Table:
    """Texts, under the names of their columns; ``note`` stands below."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Attributes:
        key: its name in the page.
        title: its heading.
        help: how to read it, in a sentence; also what screen readers are told of the picture.
        plot: None: there is only the sentence, and the table.
        table: the same in texts.
        height: in pixels.
        width: the least, in pixels: on a smaller screen it can be scrolled; 0: any.
        note: what is left out, and other things worth knowing.
    """

    key: str
    title: str
    help: str
    plot: go.Figure | None
    table: Table | None = None
    height: int = 420
    width: int = 0
    note: str = ""
    small: Sequence[Figure] = field(default=())


def picked(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int)]


def plain(figure: go.Figure) -> go.Figure:
    """One of Optuna's plots as the page wants it: no title or colours of its own, no text taken as markup."""
    figure.update_layout(template="none", title=None, plot_bgcolor=None, width=None)
    for trace in figure.data:
        for name in ("name", "text", "customdata", "x", "y"):
            value = trace[name]
            if isinstance(value, str):
                trace[name] = safe(value)
            elif value is not None and any(isinstance(item, str | tuple | list) for item in value):
                trace[name] = [_safe(item) for item in value]
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        for name in ("ticktext", "categoryarray"):
            if axis[name] is not None:
                axis[name] = [_safe(item) for item in axis[name]]
    for annotation in figure.layout.annotations:
        annotation.update(text=safe(annotation.text or ""), font=None)
    return figure


def _safe(item: Any) -> Any:
    if isinstance(item, list | tuple):
        return [_safe(part) for part in item]
    return safe(item) if isinstance(item, str) else item


def safe(value: str) -> str:
    """A text that plotly shows as it is; plotly reads some HTML tags, and understands entities."""
    return html.escape(value, quote=False).replace("&lt;br&gt;", "<br>")


# ----------------------------------------------------------------------------------------------------------- the search


def history(ledger: Ledger, records: Sequence[TrialRecord], study: optuna.Study) -> Figure:
    """Optuna's optimisation history, with the trials that were not completed."""
    metric = ledger.experiment.objective.metric
    plot = plain(plot_optimization_history(study, target_name=metric))
    for trace in plot.data:
        if trace.mode == "markers":
            trace.update(name="completed", marker={"color": BLUE, "size": 8})
        else:
            trace.update(name="best so far", line={"color": RED, "width": 2, "shape": "hv"}, marker={"size": 1})
    for outcome, (color, symbol) in OUTCOMES.items():
        scored = [record for record in records if (record.outcome or "running") == outcome and record.best is not None]
        if scored and outcome != "completed":
            plot.add_scatter(
                x=[record.number for record in scored],
                y=[record.best for record in scored],
                text=[f"after {max(record.epochs)} epochs" for record in scored],
                mode="markers",
                name=outcome,
                marker={"color": color, "symbol": symbol, "size": 7},
            )
    plot.update_xaxes(title="trial")
    plot.update_yaxes(title=f"best {metric}")
    best_first = sorted(records, key=lambda record: _rank(ledger, record))
    return Figure(
        "history",
        "Every trial's best score",
        f"Each mark is a trial at its best {metric}; the line is the best completed one so far. A line that has been "
        "flat for long says that more trials of this space bring little.",
        plot,
        trials_table(ledger, best_first),
    )


def _rank(ledger: Ledger, record: TrialRecord) -> tuple[bool, float]:
    return record.best is None, -ledger.larger_is_better(record.best or 0.0)


def trials_table(ledger: Ledger, records: Sequence[TrialRecord]) -> Table:
    """The trials with their parameters, the most that a table shows."""
    head = ["trial", "outcome", f"best {ledger.experiment.objective.metric}", "epochs", "parameters", "message"]
    rows = [
        [
            str(record.number),
            record.outcome or "running",
            "" if record.best is None else f"{record.best:.4f}",
            f"{max(record.epochs, default=0)} of {record.config.epochs}",
            ", ".join(f"{name}={short(value)}" for name, value in record.parameters.items()),
            record.message[:300],
        ]
        for record in records[:ROWS]
    ]
    left = len(records) - len(rows)
    return Table(head, rows, f"{left} weaker trials are left out; tunesearch show has them." if left > 0 else "")


def learning_curves(ledger: Ledger, records: Sequence[TrialRecord], winner: TrialRecord | None) -> Figure:
    """Running bests by epoch, with ASHA's rungs and the end of every trial that did not reach its last epoch."""
    metric = ledger.experiment.objective.metric
    begun = [record for record in records if record.epochs]
    ranked = sorted(begun, key=lambda record: _rank(ledger, record))
    shown = picked(ranked, CURVES)
    plot = go.Figure()
    for outcome, (color, symbol) in OUTCOMES.items():
        of_these = [record for record in shown if (record.outcome or "running") == outcome and record is not winner]
        if not of_these:
            continue
        x: list[int | None] = []
        y: list[float | None] = []
        trial: list[int | None] = []
        for record in of_these:
            points = _running_best(record)
            x += [*(epoch for epoch, _ in points), None]
            y += [*(value for _, value in points), None]
            trial += [record.number] * (len(points) + 1)
        plot.add_scatter(
            x=x, y=y, customdata=trial, mode="lines", name=outcome, legendgroup=outcome, opacity=0.75,
            line={"color": color, "width": 1.3, "dash": "solid" if outcome in ("completed", "stopped") else "dot"},
            hovertemplate="trial %{customdata}<br>epoch %{x}: %{y:.4f}<extra></extra>",
        )  # fmt: skip
        if outcome != "completed":
            ends = [(max(record.epochs), record.best, record.number) for record in of_these]
            plot.add_scatter(
                x=[end[0] for end in ends], y=[end[1] for end in ends], customdata=[end[2] for end in ends],
                mode="markers", name=f"{outcome}: its end", legendgroup=outcome, showlegend=False,
                marker={"color": color, "symbol": symbol, "size": 7},
                hovertemplate=f"trial %{{customdata}}: {outcome}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            )  # fmt: skip
    if winner is not None and winner.epochs:
        points = _running_best(winner)
        plot.add_scatter(
            x=[epoch for epoch, _ in points], y=[value for _, value in points], mode="lines+markers",
            name=f"trial {winner.number}, the best", line={"color": RED, "width": 3}, marker={"size": 5},
        )  # fmt: skip
    stopper = build_stopper(ledger.experiment)
    rungs = list(stopper.rungs) if isinstance(stopper, Asha) else []
    longest = max((max(record.epochs) for record in shown), default=1)
    for rung, following in itertools.pairwise([*rungs, math.inf]):
        label = f"rung {rung}" if following - rung > 0.08 * longest else str(rung)
        plot.add_vline(
            x=rung, line={"dash": "dash", "width": 1.2, "color": GREY}, annotation_text=label,
            annotation_position="top right",
        )  # fmt: skip
    plot.update_xaxes(title="epoch", rangemode="tozero")
    plot.update_yaxes(title=f"best {metric} so far")
    notes = []
    if len(shown) < len(begun):
        notes.append(f"{len(shown)} of {len(begun)} curves are shown, spread evenly from the best to the weakest.")
    if any(len(record.epochs) > EPOCHS for record in shown):
        notes.append(f"Of a curve {EPOCHS} epochs are drawn, spread evenly.")
    rule = (
        "At a dashed rung ASHA compares a trial with those that were there before and stops the weaker ones"
        if rungs
        else "No rung was set in this search"
    )
    return Figure(
        "curves",
        "Learning curves",
        f"Each line is a trial's best {metric} so far, which is what early stopping sees. {rule}; a mark shows where a "
        "trial ended before its last epoch.",
        plot,
        _rungs_table(ledger, records, rungs),
        note=" ".join(notes),
    )


def _running_best(record: TrialRecord) -> list[tuple[int, float]]:
    return [(epoch, saved.best) for epoch, saved in picked(sorted(record.epochs.items()), EPOCHS)]


def _rungs_table(ledger: Ledger, records: Sequence[TrialRecord], rungs: Sequence[int]) -> Table:
    rows = []
    ends = sorted({max(record.epochs) for record in records if record.epochs})
    for epoch in sorted({*rungs, *ends}):
        there = [record.epochs[epoch] for record in records if epoch in record.epochs]
        ended = [record for record in records if record.epochs and max(record.epochs) == epoch]
        best = max((ledger.larger_is_better(saved.best) for saved in there), default=None)
        rows.append(
            [
                f"{epoch} (rung)" if epoch in rungs else str(epoch),
                str(len(there)),
                str(sum(record.outcome == "stopped" for record in ended)),
                str(sum(record.outcome == "completed" for record in ended)),
                "" if best is None else f"{ledger.larger_is_better(best):.4f}",
            ]
        )
    return Table(["epoch", "trials that reached it", "stopped there", "completed there", "best there"], rows)


def outcome_counts(counts: dict[str, int]) -> Figure:
    """How the trials ended."""
    names = list(counts)[::-1]
    plot = go.Figure(
        go.Bar(
            x=[counts[name] for name in names], y=names, orientation="h", text=[str(counts[name]) for name in names],
            textposition="auto", marker={"color": [OUTCOMES[name][0] for name in names]},
            hovertemplate="%{y}: %{x}<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title="trials")
    table = Table(
        ["outcome", "trials", "what it means"], [[name, str(n), MEANINGS[name]] for name, n in counts.items()]
    )
    help = "How many trials ended how. Many that failed, diverged or did not fit say that the space asks for too much."
    return Figure("outcomes", "How the trials ended", help, plot, table, height=110 + 38 * len(names))


# ------------------------------------------------------------------------------------------------------- the parameters


def parallel(study: optuna.Study, metric: str, *, maximize: bool) -> Figure | None:
    """Optuna's parallel coordinates; None where nothing was completed."""
    shown = _thinned(study, LINES)
    parameters = sorted({name for trial in shown.get_trials(deepcopy=False) for name in trial.params})
    if not parameters:
        return None
    plot = plain(plot_parallel_coordinate(shown, target_name=metric))
    lines = [trace for trace in plot.data if trace.mode == "lines"]
    for trace in lines:
        height = float(trace.y[0])
        trace.line.color, trace.line.width = _shade(height if maximize else 1 - height), 1.6
        trace.opacity = 0.7
    plot.data = tuple(sorted(lines, key=lambda trace: float(trace.y[0]), reverse=not maximize))
    for shape in plot.layout.shapes:
        shape.line.color = GREY
    completed = len(_completed(study))
    left = f"{len(_completed(shown))} of {completed} completed trials, from the best to the weakest." * (
        completed > LINES
    )
    return Figure(
        "parallel",
        "Parallel coordinates",
        f"Each line is a completed trial and crosses every axis at its value; the redder, the better its {metric}. "
        "None: the parameter has no meaning in that trial. Where red lines meet is what good trials share.",
        plot,
        None,
        height=440,
        width=125 * (len(parameters) + 1),
        note=f"{left} The same in numbers: the table under “Every trial's best score”.".strip(),
    )


def _completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def _thinned(study: optuna.Study, most: int) -> optuna.Study:
    """The study with at most so many of its completed trials, spread evenly from the best to the weakest."""
    completed = _completed(study)
    if len(completed) <= most:
        return study
    sign = -1.0 if study.direction is optuna.study.StudyDirection.MAXIMIZE else 1.0
    thinned = optuna.create_study(direction=study.direction)
    ranked = sorted(completed, key=lambda trial: sign * (trial.value or 0.0))
    thinned.add_trials(sorted(picked(ranked, most), key=lambda trial: trial.number))
    return thinned


def _shade(height: float) -> str:
    """The colour at a height in 0..1 of ``WEAK_TO_STRONG``."""
    places, colors = zip(*WEAK_TO_STRONG, strict=True)
    channels = [[int(color[i : i + 2], 16) for color in colors] for i in (1, 3, 5)]
    return "#" + "".join(f"{round(float(np.interp(height, places, channel))):02x}" for channel in channels)


def importance(found: Importances | None, completed: int) -> Figure:
    """Bars with intervals, beside what chance reaches."""
    title = "Which parameters matter"
    if found is None:
        help = (
            f"{completed} completed trials are too few to tell which parameters matter: whatever came out of so few "
            "would change with the next trial. From ten on it is shown, with its uncertainty."
        )
        return Figure("importance", title, help, None)
    rows = found.rows[::-1]
    names = [row.name for row in rows]
    plot = go.Figure(
        go.Bar(
            x=[row.value for row in rows], y=names, orientation="h", name="importance",
            marker={"color": [BLUE if row.low > row.chance else GREY for row in rows]},
            error_x={
                "type": "data", "symmetric": False, "array": [row.high - row.value for row in rows],
                "arrayminus": [row.value - row.low for row in rows], "thickness": 1.5, "color": GREY,
            },
        )
    )  # fmt: skip
    plot.add_scatter(
        x=[row.chance for row in rows], y=names, mode="markers", name="reached by chance (95 %)",
        marker={"symbol": "line-ns", "size": 16, "color": RED, "line": {"width": 3, "color": RED}},
    )  # fmt: skip
    plot.update_xaxes(title="share of the importance", rangemode="tozero")
    left = ", ".join(f"{name} ({count})" for name, count in found.left_out.items())
    return Figure(
        "importance",
        title,
        f"How much each parameter decides on being among the best {100 * found.quantile:.0f} % of the {found.trials} "
        "completed trials. Only a blue bar is evidence: its whisker lies beyond the red mark, which chance reaches.",
        plot,
        Table(
            ["parameter", "importance", "5 % to 95 %", "chance reaches", "active in trials"],
            [
                [row.name, f"{row.value:.3f}", f"{row.low:.3f} to {row.high:.3f}", f"{row.chance:.3f}", str(row.active)]
                for row in found.rows
            ],
        ),
        height=130 + 34 * len(rows),
        note=(
            "PED-ANOVA as Optuna has it, conditional parameters included: bars are medians and whiskers the 5th and "
            "95th percentile over bootstrap resamples of the trials; the red mark is the 95th percentile over shuffled "
            "scores. Trials that were stopped early are not in it, so it speaks of what decides among the survivors."
            + (f" Left out, being active in too few trials or of one value only: {left}." if left else "")
        ),
    )


def slices(study: optuna.Study, metric: str) -> Figure | None:
    """Optuna's slice plots, one a parameter; None where nothing was completed."""
    shown = _thinned(study, POINTS)
    names = list(dict.fromkeys(name for trial in _completed(shown) for name in trial.params))
    if not names:
        return None
    values = [float(trial.value or 0.0) for trial in _completed(shown)]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05
    small = []
    for name in names:
        plot = plain(plot_slice(shown, params=[name], target_name=metric))
        for trace in plot.data:
            trace.marker.update(colorscale=[[0, GREY], [1, BLUE]], showscale=False, size=7, line={"width": 0})
        plot.update_xaxes(title=None, exponentformat="e")  # 1e-4, where plotly writes 100µ
        plot.update_yaxes(title=None, range=[low - margin, high + margin])
        labels = plot.layout.xaxis.categoryarray
        if labels is not None:  # Optuna writes Python's quotes
            plot.update_xaxes(tickvals=labels, ticktext=[label.strip("'") for label in labels])
        active = [trial for trial in _completed(study) if name in trial.params]
        small.append(
            Figure(
                f"slice-{name}",
                name,
                f"{metric} of the completed trials against {name}, where it has a meaning ({len(active)} trials)",
                plot,
                _slice_table(name, active, metric),
                height=250,
            )
        )
    completed, left = len(_completed(study)), ""
    if completed > POINTS:
        left = f"{POINTS} of {completed} completed trials, from the best to the weakest."
    return Figure(
        "slices",
        "Each parameter alone",
        f"Each point is a completed trial: its {metric} over the value of one parameter; the bluer, the later. A slope "
        "may be another parameter's doing: the sampler tries good values together.",
        None,
        note=left,
        small=small,
    )


def _slice_table(name: str, trials: Sequence[optuna.trial.FrozenTrial], metric: str) -> Table:
    """Trials and scores per choice, or per third of a range."""
    pairs = [(trial.params[name], float(trial.value or 0.0)) for trial in trials]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in pairs)
    groups: dict[str, list[float]] = {}
    if numeric and len({value for value, _ in pairs}) > 6:
        pairs.sort(key=lambda pair: pair[0])
        for part in np.array_split(np.arange(len(pairs)), 3):
            low, high = pairs[part[0]][0], pairs[part[-1]][0]
            groups[f"{short(low)} to {short(high)}"] = [pairs[index][1] for index in part]
    else:
        for value, score in pairs:
            groups.setdefault(short(value), []).append(score)
    rows = [
        [value, str(len(scores)), f"{min(scores):.4f}", f"{float(np.median(scores)):.4f}", f"{max(scores):.4f}"]
        for value, scores in groups.items()
    ]
    return Table([name, "trials", f"lowest {metric}", "median", "highest"], rows)


# ----------------------------------------------------------------------------------------------------------- the winner


def confirmation(found: Confirmation) -> Figure:
    """Scores of every seed, their mean and its interval, per candidate, beside the score that it had in the search."""
    plot = go.Figure()
    rows = []
    named = set()

    def add(kind: str, x: list[float], label: str, **look: Any) -> None:
        plot.add_scatter(
            x=x, y=[label] * len(x), mode="markers", name=kind, legendgroup=kind, showlegend=kind not in named, **look
        )
        named.add(kind)

    for one in found.candidates:
        label = f"trial {one.trial}"
        add("in the search", [one.searched], label, marker={"color": GREY, "size": 9, "symbol": "x"})
        if one.values:
            ring = {"color": BLUE, "size": 9, "symbol": "circle-open", "line": {"width": 2}}
            add("a seed", list(one.values), label, marker=ring)
        if one.mean is not None:
            error = None
            if one.low is not None and one.high is not None:
                error = {
                    "type": "data", "symmetric": False, "array": [one.high - one.mean],
                    "arrayminus": [one.mean - one.low], "thickness": 2.5, "color": RED, "width": 8,
                }  # fmt: skip
            marker = {"color": RED, "size": 12, "symbol": "diamond"}
            add(f"mean, {100 * LEVEL:.0f} % interval", [one.mean], label, marker=marker, error_x=error)
        rows.append(
            [
                str(one.trial),
                str(len(one.values)) + (f", {one.waiting} to come" if one.waiting else ""),
                f"{one.searched:.4f}",
                "" if one.mean is None else f"{one.mean:.4f}",
                "" if one.deviation is None else f"{one.deviation:.4f}",
                "" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}",
                ", ".join(f"{seed}: {value:.4f}" for seed, value in zip(one.seeds, one.values, strict=True)),
                ", ".join(one.failures),
            ]
        )
    plot.update_xaxes(title=found.objective)
    plot.update_yaxes(type="category", range=[len(rows) - 0.4, -0.6])
    return Figure(
        "confirmation",
        "The best trials, repeated over seeds",
        "Each ring is a whole training with a seed of its own, the diamond their mean with its interval; the cross is "
        "the score in the search. A winner is named only where its difference from every other is shown.",
        plot,
        Table(["trial", "seeds", "in the search", "mean", "deviation", "interval", "each seed", "not completed"], rows),
        height=190 + 60 * len(rows),
    )


def winner_curve(epochs: dict[int, EpochRecord], metric: str) -> Figure:
    """Losses and score of one training by epoch."""
    told = picked([saved.metrics for _, saved in sorted(epochs.items())], ROWS)
    x = [metrics.epoch for metrics in told]
    plot = go.Figure()
    for name, color, dash in (("train_loss", GREY, "dot"), ("val_loss", ORANGE, "dash")):
        plot.add_scatter(
            x=x, y=[_finite(getattr(metrics, name)) for metrics in told], name=name, mode="lines+markers",
            line={"color": color, "dash": dash}, yaxis="y2", marker={"size": 4},
        )  # fmt: skip
    shown = "val_miou" if metric == "val_loss" else metric
    plot.add_scatter(
        x=x, y=[getattr(metrics, shown) for metrics in told], name=shown, mode="lines+markers",
        line={"color": BLUE, "width": 3}, marker={"size": 5},
    )  # fmt: skip
    plot.update_layout(
        xaxis={"title": "epoch"},
        yaxis={"title": shown},
        yaxis2={"title": "loss", "overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"},
    )
    return Figure(
        "winner-curve",
        "Its training",
        f"{shown} (left axis) and the losses (right axis) by epoch. A validation loss that turns up while the training "
        "loss goes on down is overfitting; curves that still rise say that more epochs would help.",
        plot,
        Table(
            ["epoch", shown, "val_loss", "train_loss", "lr"],
            [
                [str(m.epoch), f"{getattr(m, shown):.4f}", f"{m.val_loss:.4f}", f"{m.train_loss:.4f}", f"{m.lr:.3g}"]
                for m in told
            ],
        ),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def class_iou(names: Sequence[str], iou: Sequence[float | None], background: int | None, source: str) -> Figure:
    """A bar per class, the background hatched."""
    order = sorted(range(len(iou)), key=lambda index: -1.0 if iou[index] is None else iou[index] or 0.0)
    labels = [_label(names[index], index == background) for index in order]
    plot = go.Figure(
        go.Bar(
            x=[iou[index] for index in order], y=[safe(label) for label in labels], orientation="h",
            text=["absent" if iou[index] is None else f"{iou[index]:.3f}" for index in order],
            textposition="outside", cliponaxis=False,
            marker={
                "color": [GREY if index == background else BLUE for index in order],
                "pattern": {"shape": ["/" if index == background else "" for index in order]},
            },
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title="IoU", range=[0, 1.08], tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1])
    plot.update_yaxes(type="category")
    return Figure(
        "class-iou",
        "IoU per class",
        "The share of a class's pixels, in truth or prediction, that are in both; the hatched bar is the background. "
        "A class near 0 is not found at all, however good the mean.",
        plot,
        Table(
            ["class", "IoU"],
            [
                [_label(names[i], i == background), "absent" if iou[i] is None else f"{iou[i]:.4f}"]
                for i in reversed(order)
            ],
        ),
        height=120 + 30 * len(names),
        note=source,
    )


def _label(name: str, is_background: bool) -> str:
    return f"{name} (background)" if is_background and name != "background" else name


def confusion(names: Sequence[str], matrix: NDArray[np.int64]) -> Figure:
    """Rows are the truth, in shares of their pixels; counts on hover."""
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    labels = [safe(name) for name in names]
    shown: list[list[float | None]] = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in shares]
    plot = go.Figure(
        go.Heatmap(
            z=shown, x=labels, y=labels, customdata=matrix.tolist(), zmin=0, zmax=1, colorscale="Cividis",
            texttemplate="%{z:.2f}" if len(names) <= 12 else None, xgap=1, ygap=1, colorbar={"title": "share"},
            hovertemplate="truth %{y}, predicted %{x}<br>%{z:.1%}: %{customdata} pixels<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title="predicted", type="category")
    plot.update_yaxes(title="truth", type="category", autorange="reversed")
    rows = []
    for index, name in enumerate(names):
        wrong = [other for other in np.argsort(-matrix[index]) if other != index and matrix[index, other] > 0][:3]
        taken = ", ".join(f"{names[other]} {shares[index, other]:.1%}" for other in wrong)
        right = "" if totals[index] == 0 else f"{shares[index, index]:.1%}"
        rows.append([name, f"{int(totals[index][0]):,}", right, taken])
    return Figure(
        "confusion",
        "What is taken for what",
        "A row holds the pixels of one true class, shared out over what they were predicted as; the diagonal is right. "
        "A bright field off the diagonal is a confusion.",
        plot,
        Table(["truth", "pixels", "right", "most often taken for"], rows),
        height=190 + 34 * len(names),
        width=260 + 34 * len(names),
    )


# ------------------------------------------------------------------------------------------------------------- the data


def class_histogram(report: DataReport) -> Figure:
    """Shares of the labelled pixels per class and part."""
    parts = {name: part for name, part in report.parts.items() if part.images}
    names = [spec.name for spec in report.classes]
    plot = go.Figure()
    colors = {"train": (BLUE, ""), "val": (ORANGE, "/"), "test": (GREEN, "x")}
    for name, part in parts.items():
        color, pattern = colors.get(name, (GREY, ""))
        plot.add_bar(
            x=[safe(label) for label in names],
            y=[share or None for share in _percent(part)],
            name=name, marker={"color": color, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: %{y:.3g} %<extra>" + name + "</extra>",
        )  # fmt: skip
    plot.update_layout(barmode="group")
    plot.update_xaxes(type="category")
    least = min((share for part in parts.values() for share in _percent(part) if share), default=1.0)
    powers = range(math.floor(math.log10(least)), 3)
    plot.update_yaxes(
        title="% of labelled pixels (log)", type="log", range=[powers[0], 2.05],
        tickvals=[10.0**power for power in powers], ticktext=[f"{10.0**power:g}" for power in powers],
    )  # fmt: skip
    return Figure(
        "histogram",
        "How often each class occurs",
        "Each bar is a class's share of the labelled pixels of a part, on a logarithmic axis. Bars of one class that "
        "differ much between parts say that the split is not alike.",
        plot,
        Table(
            ["class", *(f"{part}: {what}" for part in parts for what in ("% of pixels", "images with it"))],
            [
                [label, *_columns(index, parts.values())]
                for index, label in enumerate(names)
            ],
        ),
        width=160 + 34 * len(names),
    )  # fmt: skip


def _columns(index: int, parts: Iterable[PartReport]) -> list[str]:
    cells = []
    for part in parts:
        cells += [f"{_percent(part)[index]:.3g}", f"{part.images_with[index]} of {part.images}"]
    return cells


def _percent(part: PartReport) -> list[float]:
    return [100 * pixels / max(1, sum(part.pixels)) for pixels in part.pixels]
