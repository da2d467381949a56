"""The page: what the ledger, the data and the winner's weights tell, section by section, in one HTML file."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from tunesearch.errors import InputError, Problem, TunesearchError
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.production.evaluation.evaluate import evaluate
from tunesearch.production.evaluation.pairs import frozen_pairs
from tunesearch.production.evaluation.result import Evaluation
from tunesearch.production.model import open_trial
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.reporting import figures
from tunesearch.reporting.facts import cost, duration, in_words, outcomes, savings, short
from tunesearch.reporting.figures import Figure, Table
from tunesearch.reporting.pictures import Shown, file_uri, shown_images
from tunesearch.reporting.study import build_study, importances
from tunesearch.segmentation.config import ClassSpec
from tunesearch.segmentation.data.checks import check_data
from tunesearch.segmentation.data.layouts import PARTS, find_pairs, resolve_classes
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.user_code import find_user_code
from tunesearch.strategy.confirmation import LEVEL, Confirmation, confirmation
from tunesearch.tracking.store import without_password
from tunesearch.version import __version__

FINDINGS = 30
"""The most lines of one kind of finding."""
Item = dict[str, Any]
Said = Callable[[str], None]


def write_report(ledger: Ledger, output: Path, *, status: str, said: Said = lambda text: None) -> dict[str, Any]:
    """Write the report of a search, whatever state it is in.

    Args:
        ledger: the search.
        output: the HTML file; written whole or not at all.
        status: of the search, as ``SearchResult`` has it.
        said: told what takes its time.

    Returns:
        ``output``, ``bytes``, and ``missing``: what could not be shown, and why.

    Raises:
        InputError: ``output`` is no file that can be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):  # before minutes are spent on it
            pass
    except OSError as error:
        rule = f"must be a file that can be written: {error.strerror}"
        raise InputError(Problem("-o", rule, value=str(output))) from error
    view = _View(ledger, status, said)
    page = view.render()
    write_text(output, page)
    return {"output": str(output), "bytes": len(page.encode()), "missing": view.missing}


def _text(text: str, style: str = "") -> Item:
    return {"kind": "text", "text": text, "style": style}


def _figure(figure: Figure | None) -> list[Item]:
    return [] if figure is None else [{"kind": "figure", "figure": figure}]


def _table(title: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> Item:
    return {"kind": "table", "title": title, "table": Table(list(head), [[str(cell) for cell in row] for row in rows])}


class _View:
    """One report in the making.

    Attributes:
        winner: the trial that leads, or the best one; None: none has a score.
        network: the one whose network is shown: its best repeat, where it has been confirmed.
        missing: what could not be shown, and why.
    """

    def __init__(self, ledger: Ledger, status: str, said: Said) -> None:
        self.ledger, self.status, self.said = ledger, status, said
        self.metric = ledger.experiment.objective.metric
        self.records = ledger.counted()
        self.confirmed: Confirmation | None = confirmation(ledger)
        leader = self.confirmed.leader if self.confirmed else None
        self.winner: TrialRecord | None = ledger.best() if leader is None else ledger.trials[leader]
        network = self.confirmed.network if self.confirmed else None
        self.network = self.winner if network is None else ledger.trials[network]
        self.missing: list[str] = []
        self.classes: tuple[ClassSpec, ...] = ()
        settings = ledger.attribute("settings", {})
        find_user_code(str(settings.get("code", ".")))
        try:
            self.classes = resolve_classes(ledger.experiment.data)
        except TunesearchError as error:
            self.missing.append(f"the names of the classes: {error}")

    # ------------------------------------------------------------------------------------------------------- the page

    def render(self) -> str:
        """The whole page."""
        sections = [
            ("search", "The search", self._search()),
            ("parameters", "The parameters", self._parameters()),
            ("winner", self._name_of_best(), self._winner()),
            ("data", "The data", self._data()),
            ("configuration", "Configuration and versions", self._configuration()),
        ]
        if self.confirmed is not None:
            sections.insert(0, ("confirmed", "Confirmation", self._confirmation(self.confirmed)))
        templates = Environment(
            loader=PackageLoader("tunesearch.reporting", "page_files"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        files = resources.files("tunesearch.reporting") / "page_files"
        shown = [{"key": key, "title": title, "items": items} for key, title, items in sections]
        return templates.get_template("page.html").render(
            name=self.ledger.name,
            space=self.ledger.experiment.name,
            status_text=self._status(),
            warnings=self._warnings(),
            headline=self._headline(),
            cards=self._cards(),
            sections=shown,
            figures=Markup(_as_json(_plots(shown))),
            nonce=secrets.token_urlsafe(16),
            plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
            script=Markup((files / "page.js").read_text("utf-8")),
            style=Markup((files / "page.css").read_text("utf-8")),
            version=__version__,
            written=time.strftime("%Y-%m-%d %H:%M"),
        )

    def _status(self) -> str:
        told = {
            "completed": "completed",
            "exhausted": "completed: the space has no further configuration",
            "time_budget": "ended with its time budget",
        }
        return told.get(self.status, self.status)

    def _warnings(self) -> list[str]:
        found = []
        if self.ledger.experiment.data.layout == "sample":
            found.append(
                "The data are the built-in SAMPLE of generated scenes: scores say nothing about real pictures."
            )
        if self.status == "running":
            found.append("The search is still running: this is how it stands now, and the winner may change.")
        elif self.status in ("interrupted", "failed"):
            found.append(
                f"The search is not finished ({self.status}): tunesearch resume {self.ledger.name} goes on with it."
            )
        if not self.records:
            found.append("No trial has begun, so there is little to report.")
        return found

    def _headline(self) -> Item | None:
        winner, name = self.winner, self.ledger.name
        if winner is None or winner.best is None:
            return None
        told = in_words(winner.config)
        unfinished = "" if winner.outcome == "completed" else f" (it is {winner.outcome or 'running'}, not completed)"
        found = self.confirmed
        if found is None or found.leader is None:
            verdict = (
                "Not confirmed: the best of many single trainings is partly luck, and its score too high on average. "
                "Repeat the best trials over several seeds before relying on it:"
            )
            if found is not None:
                verdict = f"Not confirmed yet: {found.verdict}. Until then the best of many trainings is partly luck:"
            return {
                "state": "open", "badge": "NOT CONFIRMED", "score": f"{winner.best:.4f}",
                "what": f"{self.metric}, one training{unfinished}", "trial": winner.number, "words": told,
                "verdict": verdict, "command": f"tunesearch confirm {name}", "title": "Best in the search",
            }  # fmt: skip
        one = found.candidate(found.leader)
        assert one.mean is not None
        state, badge = "open", "NO DIFFERENCE SHOWN"
        if found.winner is not None:
            state, badge = "confirmed", "CONFIRMED"
        elif not found.done:
            badge = "NOT CONFIRMED YET"
        elif len(found.candidates) == 1:
            state, badge = "confirmed", "REPEATED, NOT COMPARED"
        what = f"mean {self.metric} over {len(one.values)} seeds"
        if one.deviation is not None:
            what += f", deviation {one.deviation:.4f}"
        return {
            "state": state, "badge": badge, "score": f"{one.mean:.4f}",
            "what": f"{what}; {winner.best:.4f} in the search", "trial": winner.number, "words": told,
            "verdict": f"{found.verdict[:1].upper()}{found.verdict[1:]}.",
            "command": "" if found.done else f"tunesearch confirm {name}",
            "title": "The winner" if found.winner is not None else "Leading by its mean",
        }  # fmt: skip

    def _name_of_best(self) -> str:
        return "The winner" if self.confirmed and self.confirmed.winner is not None else "The best trial"

    def _cards(self) -> list[Item]:
        ledger = self.ledger
        spent = cost(ledger, ledger.trained())
        saved = savings(self.records)
        counts = outcomes(self.records)
        repeats = len(ledger.confirmations())
        split = ledger.split
        wall = ledger.seconds("confirm_seconds")
        cards: list[Item] = [
            {
                "title": "Trials",
                "value": str(len(self.records)),
                "more": ", ".join(f"{number} {name}" for name, number in counts.items())
                + (f"; {repeats} repeats" if repeats else ""),
            },
            {
                "title": "Wall time",
                "value": duration(spent.wall_seconds + wall),
                "more": f"of it {duration(wall)} to confirm" if wall else "all sessions together",
            },
            {
                "title": "CPU-hours",
                "value": f"{spent.cpu_hours:.3g}",
                "more": "training and validation passes by threads"
                + (f"; {spent.assumed} trials by the settings' CPUs" if spent.assumed else ""),
            },
            {"title": "GPU-hours", "value": f"{spent.gpu_hours:.3g}", "more": "the same, on a GPU"},
        ]
        if saved.planned:
            cards.append(
                {
                    "title": "Epochs saved",
                    "value": f"{100 * saved.share:.0f} %",
                    "more": f"{saved.planned - saved.trained} of {saved.planned} by early stopping",
                }
            )
        cards.append(
            {
                "title": "Data",
                "value": self._data_name(),
                "more": ", ".join(f"{len(split.items(part))} {part}" for part in PARTS) + f"; hash {split.digest[:12]}",
            }
        )
        return cards

    # ----------------------------------------------------------------------------------------------------- the sections

    def _confirmation(self, found: Confirmation) -> list[Item]:
        items = [
            _text(f"{found.verdict[:1].upper()}{found.verdict[1:]}.", "lead"),
            _text(
                f"Intervals are Student's t at {100 * LEVEL:.0f} %; a winner is named only where Welch's t interval of "
                "its difference from every other candidate leaves zero out. The search's own score is no part of a "
                "mean: trials were chosen by it.",
                "help",
            ),
            *_figure(figures.confirmation(found)),
        ]
        if found.differences:
            rows = [
                [one.trial, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", "yes" if one.shown else "no"]
                for one in found.differences
            ]
            head = [f"trial, against trial {found.leader}", "behind by", "interval", "difference shown"]
            items.append(_table("How far the others are behind", head, rows))
        if found.test is None:
            reason = "" if self.ledger.split.test else ": the search set no test part aside (data.test)"
            items.append(_text(f"There is no score on a test part{reason}."))
            return items
        test = found.test
        told = {
            "miou": "mIoU", "miou_no_background": "mIoU without background", "dice": "Dice",
            "pixel_accuracy": "pixel accuracy",
        }  # fmt: skip
        rows = []
        for key, title in told.items():
            score = test[key]
            deviation = "" if score["deviation"] is None else f"{score['deviation']:.4f}"
            each = ", ".join(f"{value:.4f}" for value in score["values"])
            rows.append([title, f"{score['mean']:.4f}", deviation, each])
        images = test.get("images")
        items.append(
            _table("On the test part, which no trial has seen", ["score", "mean", "deviation", "each seed"], rows)
        )
        items.append(_text(f"Trial {found.leader}, every seed, on {images} images at their original size.", "help"))
        iou = [[name, "absent" if value is None else f"{value:.4f}"] for name, value in test["iou"].items()]
        items.append(_table("IoU per class on the test part, mean over the seeds", ["class", "IoU"], iou))
        return items

    def _search(self) -> list[Item]:
        if not self.records:
            return [_text("No trial has begun.")]
        saved = savings(self.records)
        study = build_study(self.ledger, self.records)
        items = _figure(figures.history(self.ledger, self.records, study))
        items += _figure(figures.learning_curves(self.ledger, self.records, self.winner))
        if saved.planned:
            patience = f", {saved.by_patience} by the trials' own patience" if saved.by_patience else ""
            items.append(
                _text(
                    f"Early stopping saved {saved.planned - saved.trained} of {saved.planned} epochs "
                    f"({100 * saved.share:.1f} %): {saved.by_search} by the search{patience}. Counted over the trials "
                    "that were completed or stopped, against training each of them to its last epoch; the others would "
                    "have ended as they did anyway."
                )
            )
        items += _figure(figures.outcome_counts(outcomes(self.records)))
        duplicates = sum(record.outcome == "duplicate" for record in self.ledger.trials.values())
        if duplicates:
            items.append(
                _text(f"{duplicates} suggestions equalled an earlier trial in effect and were not trained again.")
            )
        reasons: dict[str, list[str]] = {}
        for record in self.records:
            if record.message and record.outcome in ("failed", "infeasible", "lost", "out_of_memory", "diverged"):
                reasons.setdefault(f"{record.outcome}: {record.message[:300]}", []).append(str(record.number))
        if reasons:
            lines = [
                f"{reason} (trial {', '.join(numbers[:20])})" for reason, numbers in list(reasons.items())[:FINDINGS]
            ]
            items.append({"kind": "list", "title": "Why trials did not end well", "lines": lines})
        return items

    def _parameters(self) -> list[Item]:
        study = build_study(self.ledger, self.records)
        completed = sum(record.outcome == "completed" and record.best is not None for record in self.records)
        if not completed:
            return [_text("No trial was completed, so nothing can be said about the parameters.")]
        if completed >= 100:
            self.said("measuring how much each parameter matters")
        mode = self.ledger.experiment.objective.mode
        items = _figure(figures.importance(importances(study), completed))
        items += _figure(figures.parallel(study, self.metric, maximize=mode == "max"))
        return items + _figure(figures.slices(study, self.metric))

    def _winner(self) -> list[Item]:
        winner = self.network
        if winner is None or not winner.epochs:
            return [_text("No trial has a score yet.")]
        best = winner.best_epoch(self.metric).metrics
        data = self.ledger.experiment.data
        where = {"original": "the masks' original size", "network": "the size that the network sees"}
        source = f"At its best epoch ({best.epoch}), at {where[self.ledger.experiment.objective.resolution]}."
        items = []
        if winner.confirms is not None:
            items.append(
                _text(
                    f"Shown is trial {winner.number}, the repeat of trial {winner.confirms} with the best "
                    f"{self.metric} of its seeds: the network that export hands over."
                )
            )
        items += _figure(figures.winner_curve(winner.epochs, self.metric))
        if best.folds:
            source += f" The mean over {len(best.folds)} folds."
        names = [spec.name for spec in self.classes] or [f"class {index}" for index in range(len(best.val_iou))]
        if len(names) == len(best.val_iou):
            items += _figure(figures.class_iou(names, best.val_iou, data.background, source))
        seen = self._seen(winner)
        if seen is None:
            uri = file_uri(self.ledger.trial_folder(winner.number) / "predictions.png")
            items.append(_text(f"No confusion matrix: {self.missing[-1]}.", "note"))
            if uri is not None:
                text = "validation images as the search kept them: image, truth, prediction and overlay"
                items.append({"kind": "picture", "title": "Predictions", "text": text, "uri": uri})
            return items
        evaluation, shown = seen
        whole = evaluation.scores
        items += _figure(figures.confusion(names, evaluation.matrix))
        items.append(
            _text(
                f"Over the {len(evaluation.images)} validation images at their own size: mIoU {whole.miou:.4f} "
                f"({whole.miou_no_background:.4f} without background), Dice {whole.dice:.4f}, pixel accuracy "
                f"{whole.pixel_accuracy:.4f}. At another size than it was searched at, scores differ a little.",
            )
        )
        colors = palette(self.classes)
        legend = [
            {"name": spec.name, "color": "#" + bytes(colors[index].tolist()).hex()}
            for index, spec in enumerate(self.classes)
        ]
        legend.append({"name": "void (not scored)", "color": "#" + bytes(colors[255].tolist()).hex()})
        items.append(
            {
                "kind": "shown",
                "help": "Ranked by each image's own mIoU; a class in neither truth nor prediction does not count. "
                "The overlay leaves the background clear.",
                "legend": legend,
                "shown": shown,
            }
        )
        return items

    def _seen(self, winner: TrialRecord) -> tuple[Evaluation, tuple[Shown, ...]] | None:
        """The winner on the validation part; None: it cannot be had, and ``missing`` says why."""
        try:
            model = open_trial(self.ledger, winner)
            pairs, data = frozen_pairs(model, "val")
            self.said(f"trial {winner.number} on {len(pairs)} validation images")
            evaluation = evaluate(model, pairs, data, what="val", on_progress=self._counted)
            return evaluation, shown_images(evaluation, Predictor([model]), pairs, data)
        except (TunesearchError, OSError) as error:
            self.missing.append(f"the best trial's predictions: {_first(error)}")
        except Exception as error:  # a network of the user's own may raise anything
            self.missing.append(f"the best trial's predictions: {type(error).__name__}: {error}")
        return None

    def _counted(self, done: int, total: int) -> None:
        if done % 200 == 0:
            self.said(f"{done} of {total} images")

    def _data(self) -> list[Item]:
        ledger, split = self.ledger, self.ledger.split
        rows = [[part, len(split.items(part)), split.part_digest(part)] for part in PARTS]
        items = [_table("The frozen split", ["part", "images", "SHA-256 of ids and contents"], rows)]
        items.append(_text(f"All of it: {split.digest}.", "note"))
        if ledger.experiment.data.layout != "sample" and not split.root.exists():
            self.missing.append("the checks of the data: they are no longer where they were")
            items.append(
                _text("The data are no longer where they were, so there is no class histogram and no check of them.")
            )
            return items
        try:
            if ledger.experiment.data.layout == "sample":
                find_pairs(ledger.experiment.data)
            self.said(f"checking {sum(len(split.items(part)) for part in PARTS)} images and masks")
            report = check_data(ledger.experiment.data, split=split)
        except Exception as error:  # a layout of the user's own may raise anything
            self.missing.append(f"the checks of the data: {_first(error)}")
            items.append(_text(f"The data could not be checked: {_first(error)}"))
            return items
        if any(sum(part.pixels) for part in report.parts.values()):
            items += _figure(figures.class_histogram(report))
        sizes = [
            [name, part.images, "x".join(map(str, part.smallest)), "x".join(map(str, part.largest)), f"{part.void:,}"]
            for name, part in report.parts.items()
            if part.images
        ]
        if sizes:
            items.append(_table("What the parts hold", ["part", "images", "smallest", "largest", "void pixels"], sizes))
        found = [("Problems", [str(problem) for problem in report.problems]), ("Warnings", list(report.warnings))]
        for title, lines in found:
            if lines:
                more = [f"and {len(lines) - FINDINGS} more"] if len(lines) > FINDINGS else []
                root = f"{split.root}/"
                told = [line.replace(root, "") for line in lines[:FINDINGS]] + more
                items.append({"kind": "list", "title": f"{title} that the checks found", "lines": told})
        if not report.problems and not report.warnings:
            items.append(_text("The checks found nothing wrong: every file is what was frozen, sizes and labels fit."))
        elif not report.problems:
            items.append(_text("No problem was found: every file is what was frozen when the search began."))
        return items

    def _configuration(self) -> list[Item]:
        ledger, name = self.ledger, self.ledger.name
        items: list[Item] = []
        if self.winner is not None:
            number = self.winner.number
            governing = self.winner.config.governing()
            rows = [
                [field, short(value), "searched" if field in self.winner.parameters else "fixed"]
                for field, value in self.winner.config.model_dump(mode="json").items()
                if field in governing
            ]
            items.append(_table(f"Trial {number}: what governs it", ["field", "value", "how"], rows))
            built = ledger.effective(number)
            if built:
                text = "As read back from the built objects."
                items.append(_text(text, "help"))
                rows = [[key, json.dumps(value)] for key, value in built.items()]
                items.append(_table(f"Trial {number}: effective configuration", ["what was built", "value"], rows))
            else:
                self.missing.append("the effective configuration of the best trial: its file is not there")
        commands = [
            ("Confirm the best trials over seeds", f"tunesearch confirm {name}"),
            ("The complete configuration", f"tunesearch export {name} -o best.yaml"),
            ("Train it again, to the end", "tunesearch train best.yaml"),
            ("Masks for pictures", f"tunesearch predict {name} PICTURES -o MASKS"),
            ("This report", f"tunesearch report {name}"),
            ("The same search again", self._again()),
        ]
        text = "\n".join(f"{command}    # {what}" for what, command in commands)
        items.append({"kind": "code", "title": "Commands", "help": "", "text": text})
        items.append(
            {"kind": "folded", "title": "The search space, with every override resolved", "text": self._space()}
        )
        settings = {key: _shown(key, value) for key, value in ledger.attribute("settings", {}).items()}
        items.append(_table("Settings", ["setting", "value"], settings.items()))
        items.append(_table("Versions", ["package", "version"], ledger.attribute("versions", {}).items()))
        return items

    def _data_name(self) -> str:
        """The data set without this machine's folders."""
        data = self.ledger.experiment.data
        if data.layout == "sample":
            return "built-in sample"
        return data.root.name if data.root is not None else data.layout

    def _again(self) -> str:
        data = " --data DATA" if self.ledger.experiment.data.root is not None else ""
        sampler = self.ledger.experiment.search
        return f"tunesearch run experiment.yaml{data} --seed {sampler.seed} --name {self.ledger.name}-again"

    def _space(self) -> str:
        document = YAML(typ="safe").load(self.ledger.experiment.to_yaml())
        data = document.get("data") or {}
        if data.get("root"):
            data["root"] = Path(str(data["root"])).name
        stream = StringIO()
        yaml = YAML()
        yaml.default_flow_style = None
        yaml.width = 110
        yaml.dump(document, stream)
        return str(stream.getvalue()).rstrip()


def _shown(key: str, value: Any) -> str:
    """A setting without passwords and without this machine's folders."""
    if value is None:
        return "not given"
    text = without_password(str(value))
    if key in ("code", "encoder_weights") and "/" in text:
        return f"…/{Path(text).name}"
    if key == "tracking_uri" and text.startswith("sqlite:"):
        return f"sqlite:…/{Path(text).name}"
    return text


def _first(error: Exception) -> str:
    """The first line of an error's words."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _plots(sections: list[Item]) -> dict[str, Any]:
    """Plotly's data and layout of every figure, by key."""
    found: dict[str, Any] = {}

    def take(figure: Figure) -> None:
        if figure.plot is not None:
            figure.plot.update_layout(template="none", title=None)
            content = json.loads(figure.plot.to_json())
            content.get("layout", {}).pop("template", None)
            found[figure.key] = {"data": content["data"], "layout": content.get("layout", {})}
        for part in figure.small:
            take(part)

    for section in sections:
        for item in section["items"]:
            if item["kind"] == "figure":
                take(item["figure"])
    return found


def _as_json(content: Any) -> str:
    """JSON that can stand inside an HTML element."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")
