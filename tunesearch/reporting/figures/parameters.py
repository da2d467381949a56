"""Figures of the searched parameters: how much each matters, how they went together, and each alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.visualization import plot_parallel_coordinate, plot_slice

from tunesearch.reporting.facts import short
from tunesearch.reporting.figures.figure import BLUE, GREY, RED, Figure, Table, picked, plain
from tunesearch.reporting.importance import Importances

WEAK_TO_STRONG: tuple[tuple[float, str], ...] = ((0.0, GREY), (0.5, BLUE), (1.0, RED))
"""Visible on white and on black alike."""
LINES, POINTS = 150, 300
"""The most that are shown: parallel lines, and points of a slice."""


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
