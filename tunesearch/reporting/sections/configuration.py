"""The section on the configuration: what governs the best trial, commands, the search space, settings and versions."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.facts import short
from tunesearch.reporting.items import Item, table_item, text_item
from tunesearch.reporting.reported import ReportedSearch
from tunesearch.tracking.store import without_password


def configuration_section(search: ReportedSearch) -> list[Item]:
    """Everything that the search can be done again with."""
    ledger = search.ledger
    settings = {key: _shown(key, value) for key, value in ledger.attribute("settings", {}).items()}
    return [
        *([] if search.winner is None else _trial(search, search.winner)),
        {"kind": "code", "title": "Commands", "help": "", "text": _commands(ledger)},
        {"kind": "folded", "title": "The search space, with every override resolved", "text": _space(ledger)},
        table_item("Settings", ["setting", "value"], settings.items()),
        table_item("Versions", ["package", "version"], ledger.attribute("versions", {}).items()),
    ]


def _trial(search: ReportedSearch, trial: TrialRecord) -> list[Item]:
    """The fields that have an effect, and what was built of them."""
    number, governing = trial.number, trial.config.governing()
    rows = [
        [field, short(value), "searched" if field in trial.parameters else "fixed"]
        for field, value in trial.config.model_dump(mode="json").items()
        if field in governing
    ]
    items = [table_item(f"Trial {number}: what governs it", ["field", "value", "how"], rows)]
    built = search.ledger.effective(number)
    if not built:
        search.missing.append("the effective configuration of the best trial: its file is not there")
        return items
    title = f"Trial {number}: effective configuration"
    return [
        *items,
        text_item("As read back from the built objects.", "help"),
        table_item(title, ["what was built", "value"], [[key, json.dumps(value)] for key, value in built.items()]),
    ]


def _commands(ledger: Ledger) -> str:
    name = ledger.name
    data = " --data DATA" if ledger.experiment.data.root is not None else ""
    again = f"tunesearch run experiment.yaml{data} --seed {ledger.experiment.search.seed} --name {name}-again"
    commands = [
        ("Confirm the best trials over seeds", f"tunesearch confirm {name}"),
        ("The complete configuration", f"tunesearch export {name} -o best.yaml"),
        ("Train it again, to the end", "tunesearch train best.yaml"),
        ("Masks for pictures", f"tunesearch predict {name} PICTURES -o MASKS"),
        ("This report", f"tunesearch report {name}"),
        ("The same search again", again),
    ]
    return "\n".join(f"{command}    # {what}" for what, command in commands)


def _space(ledger: Ledger) -> str:
    """The experiment in YAML, without this machine's folders."""
    document = YAML(typ="safe").load(ledger.experiment.to_yaml())
    data = document.get("data") or {}
    if data.get("root"):
        data["root"] = Path(str(data["root"])).name
    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 110
    yaml.dump(document, stream)
    return stream.getvalue().rstrip()


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
