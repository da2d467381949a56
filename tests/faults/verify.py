"""What must hold after a search that was killed, told from sources other than the ledger's code where there are any.

Sources: the log that trials append to themselves, the ledger's tables read with plain SQL, MLflow, the process table
and the folders on disk. The ASHA rule is written again here.
"""

from __future__ import annotations

import itertools
import json
import logging
import sqlite3
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Event, Search

TOLD = {"completed": "COMPLETE", "stopped": "PRUNED", "diverged": "PRUNED", "out_of_memory": "PRUNED",
        "infeasible": "PRUNED", "failed": "FAIL", "lost": "FAIL", "cancelled": "FAIL", "duplicate": "FAIL"}  # fmt: skip
"""What docs/searching.md says that Optuna is told."""
TIMES = ("finished_at", "train_seconds", "val_seconds", "images_per_second")
"""What of an epoch depends on the clock."""
TICK = 0.01
"""Seconds by which the times of two processes on one machine may be rounded apart."""


@dataclass
class Row:
    """One trial as the ledger's tables have it.

    Attributes:
        arrivals: (order of the commit, epoch), the order over all trials of the study.
        reported: Optuna's intermediate values.
    """

    number: int
    state: str
    parameters: str
    value: float | None
    attributes: dict[str, Any]
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    reported: dict[int, float] = field(default_factory=dict)

    @property
    def epochs(self) -> dict[int, dict[str, Any]]:
        """Committed epochs: metrics, best and stopped."""
        return {int(key[6:]): saved for key, saved in sorted(self.attributes.items()) if key.startswith("epoch:")}

    @property
    def outcome(self) -> str | None:
        return self.attributes.get("outcome")

    def timeless(self) -> dict[str, Any]:
        """Everything that must be the same in a search that was not killed."""
        curve = []
        for saved in self.epochs.values():
            metrics = {name: value for name, value in saved["metrics"].items() if name not in TIMES}
            curve.append([metrics, saved["best"], saved["stopped"]])
        same = {name: self.attributes.get(name) for name in ("config", "outcome", "message")}
        return {"number": self.number, "state": self.state, "parameters": self.parameters, "value": self.value,
                "curve": curve, **same}  # fmt: skip


@dataclass
class Verdict:
    """What a search's kills cost.

    Attributes:
        problems: everything that does not hold; empty where all is well.
        retrained: epochs that were begun again, per kill.
        lost: trials that were known and are no longer, or not as they were.
        repeated: epochs that were trained to their end twice, and numbers or configurations that exist twice.
        zombies: what still runs, or is said to run, after the end.
    """

    problems: list[str] = field(default_factory=list)
    retrained: list[int] = field(default_factory=list)
    lost: int = 0
    repeated: int = 0
    zombies: int = 0


def verify(search: Search, calm: Search | None = None) -> Verdict:
    """Judge a search that has ended; ``calm``: the same one at concurrency 1, which nobody killed, or its beginning."""
    verdict = Verdict(retrained=[0] * len(search.events))
    rows = read_rows(search.storage / "a" / "ledger.db")
    judge_trials(search, rows, json.loads(tunesearch(search, "show", "a", "--json")), verdict)
    judge_epochs(search, rows, verdict)
    judge_decisions(search, rows, verdict)
    judge_mlflow(search, rows, verdict)
    judge_leftovers(search, verdict)
    if calm is not None:
        for number, row in read_rows(calm.storage / "a" / "ledger.db").items():
            one, other = row.timeless(), rows[number].timeless() if number in rows else None
            if one != other:
                verdict.problems.append(f"differs from the search that nobody killed: {_difference(one, other)}")
    return verdict


def read_rows(file: Path) -> dict[int, Row]:
    """Every trial by number, with plain SQL on Optuna's tables."""
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)
    rows: dict[int, Row] = {}
    for identity, number, state in database.execute("SELECT trial_id, number, state FROM trials ORDER BY trial_id"):

        def ask(query: str, identity: int = identity) -> list[Any]:
            return database.execute(query.replace("?", str(identity))).fetchall()

        parameters = ask("SELECT param_name, param_value FROM trial_params WHERE trial_id = ? ORDER BY param_name")
        values = ask("SELECT value FROM trial_values WHERE trial_id = ?")
        steps = ask("SELECT step, intermediate_value FROM trial_intermediate_values WHERE trial_id = ?")
        attributes = ask(
            "SELECT key, value_json, trial_user_attribute_id FROM trial_user_attributes WHERE trial_id = ?"
        )
        if number in rows:
            raise AssertionError(f"two trials have the number {number}")
        rows[number] = Row(
            number,
            state,
            json.dumps(parameters),
            values[0][0] if values else None,
            {key: json.loads(value) for key, value, _ in attributes},
            [(order, int(key[6:])) for key, _, order in attributes if key.startswith("epoch:")],
            dict(steps),
        )
    database.close()
    return rows


def _difference(one: dict[str, Any], other: dict[str, Any] | None) -> str:
    if other is None:
        return f"trial {one['number']} is not there"
    names = [name for name in one if one[name] != other.get(name)]
    return f"trial {one['number']}: " + "; ".join(
        f"{name} {one[name]} against {other.get(name)}"[:300] for name in names
    )


# ----------------------------------------------------------------------------------------------------------- the trials


def judge_trials(search: Search, rows: dict[int, Row], shown: dict[str, Any], verdict: Verdict) -> None:
    """Every number exists once and ended under its name; nothing that was known after a kill is gone or changed."""
    say = verdict.problems.append
    counted = [row for row in rows.values() if row.outcome != "duplicate"]
    wanted = shown["trials"]
    if sorted(rows) != list(range(len(rows))):
        say(f"numbers have gaps: {sorted(rows)}")
    if shown["status"] != "completed":
        say(f"the search is {shown['status']}")
    if [(row.number, row.outcome) for row in counted] != [(trial["number"], trial["outcome"]) for trial in wanted]:
        say("show and the tables disagree about trials or outcomes")
    seen: dict[str, int] = {}
    for row in counted:
        twin = seen.setdefault(row.parameters, row.number)
        if twin != row.number:
            verdict.repeated += 1
            say(f"trials {twin} and {row.number} have the same parameters and both count")
    for row in rows.values():
        if row.state == "RUNNING":
            verdict.zombies += 1
            say(f"trial {row.number} is still RUNNING in Optuna")
        elif row.outcome is None or TOLD[row.outcome] != row.state:
            say(f"trial {row.number} is {row.state} in Optuna and {row.outcome} in the ledger")
        best = [saved["best"] for saved in row.epochs.values()]
        if list(row.epochs) != list(range(1, len(best) + 1)):
            say(f"trial {row.number} has gaps: epochs {list(row.epochs)}")
        if best != list(itertools.accumulate((saved["metrics"]["val_miou"] for saved in row.epochs.values()), max)):
            say(f"trial {row.number}: the running best is not the maximum of the curve")
        if list(row.reported.values()) != best:
            say(f"trial {row.number}: Optuna was told {row.reported}, the ledger holds {best}")
        if row.value != (best[-1] if best and row.state in ("COMPLETE", "PRUNED") else None):
            say(f"trial {row.number}: its value is {row.value}, its best {best[-1:]}")
        if row.outcome == "completed" and len(best) != row.attributes["config"]["epochs"]:
            say(f"trial {row.number} is completed after {len(best)} epochs")
        if row.outcome == "lost":
            say(f"trial {row.number} ended as lost")
    for event in search.events:
        for number, (parameters, epochs) in event.known.items():
            now = rows.get(number)
            if now is None or json.loads(now.parameters) != json.loads(parameters) or len(now.epochs) < epochs:
                verdict.lost += 1
                say(f"trial {number} was known with {epochs} epochs after {event.kill}, and is not as it was")


# ----------------------------------------------------------------------------------------------------------- the epochs


def judge_epochs(search: Search, rows: dict[int, Row], verdict: Verdict) -> None:
    """From the log that the trials write: every epoch was trained to its end once, and begun again only for a kill."""
    say = verdict.problems.append
    begins: dict[tuple[int, int], list[float]] = defaultdict(list)
    ends: dict[tuple[int, int], list[float]] = defaultdict(list)
    last: dict[int, int] = defaultdict(int)
    for what, number, epoch, _, at in search.epoch_log():
        if what == "end":
            ends[number, epoch].append(at)
            last[number] = epoch
            continue
        begins[number, epoch].append(at)
        # A process that dies between the rename and its line in the log has trained the epoch all the same.
        unsaid = (number, last[number] + 1)
        skipped = epoch == last[number] + 2 and _kill_between(search, begins.get(unsaid, [at])[-1], at) is not None
        if epoch != last[number] + 1 and not skipped:
            say(f"trial {number} began epoch {epoch} after it had finished epoch {last[number]}")
    for (number, epoch), times in ends.items():
        if len(times) > 1:
            verdict.repeated += len(times) - 1
            say(f"epoch {epoch} of trial {number} was trained to its end {len(times)} times")
    for (number, epoch), times in begins.items():
        for earlier, later in itertools.pairwise(times):
            index = _kill_between(search, earlier, later)
            if index is None:
                say(f"epoch {epoch} of trial {number} was begun again though nobody was killed")
            else:
                verdict.retrained[index] += 1
    for index, event in enumerate(search.events):
        running = search.concurrency if event.kill.victim != "actor" else 1
        if verdict.retrained[index] > running:
            say(f"{event.kill} cost {verdict.retrained[index]} epochs with {running} trials running")
    for row in rows.values():
        for epoch in row.epochs:
            if not begins[row.number, epoch]:
                say(f"epoch {epoch} of trial {row.number} is in the ledger and was never trained")
            elif not ends[row.number, epoch]:
                began = begins[row.number, epoch][-1]
                later = [at for key, times in begins.items() for at in times if key[0] == row.number and at > began]
                if _kill_between(search, began, min(later, default=float("inf"))) is None:
                    say(f"epoch {epoch} of trial {row.number} is in the ledger and was never finished")
    for number, epoch in ends:
        if number in rows and epoch not in rows[number].epochs:
            say(f"epoch {epoch} of trial {number} was trained and is not in the ledger")


def _kill_between(search: Search, earlier: float, later: float) -> int | None:
    """Index of the first kill of a trial's process, its Ray or its driver within two moments."""
    for index, event in enumerate(search.events):
        if event.kill.victim != "mlflow" and earlier - TICK <= event.at <= later + TICK:
            return index
    return None


# -------------------------------------------------------------------------------------------------------- the decisions


def asha(curves: list[tuple[int, int, float, int]], *, grace: int, reduction: int) -> tuple[dict[int, Any], set[Any]]:
    """The rule of Li et al. (2020) once more, on (trial, epoch, running best, last epoch) in order of arrival.

    Returns:
        The rungs, level -> {trial: value}, and who was stopped where, as (trial, epoch).
    """
    rungs: dict[int, dict[int, float]] = {}
    stopped = set()
    for number, epoch, value, end in curves:
        power = 1
        while power * grace < epoch:
            power *= reduction
        if power * grace != epoch or epoch >= end:
            continue
        earlier = sorted(rungs.setdefault(epoch, {}).values())
        rungs[epoch][number] = value
        if earlier:
            place = (len(earlier) - 1) * (1 - 1 / reduction)
            below = int(place)
            above = min(below + 1, len(earlier) - 1)
            if value < earlier[below] + (earlier[above] - earlier[below]) * (place - below):
                stopped.add((number, epoch))
    return rungs, stopped


def judge_decisions(search: Search, rows: dict[int, Row], verdict: Verdict) -> None:
    """ASHA, replayed in the order of the commits, decides what was decided; a resume would fill the same rungs."""
    from tunesearch.ledger.store import Ledger
    from tunesearch.strategy.early_stopping import build_stopper

    arrivals = sorted((order, row, epoch) for row in rows.values() for order, epoch in row.arrivals)
    curves = [(row.number, epoch, row.epochs[epoch]["best"], 9) for _, row, epoch in arrivals]
    rungs, stopped = asha(curves, grace=1, reduction=2)
    decided = {(row.number, epoch) for row in rows.values() for epoch, saved in row.epochs.items() if saved["stopped"]}
    if stopped != decided:
        verdict.problems.append(f"ASHA stops {sorted(stopped)}, decided was {sorted(decided)}")
    wanted = {(number, epoch) for number, epoch in decided if rows[number].outcome == "stopped"}
    if wanted != decided or {number for number, _ in decided} != {
        n for n, row in rows.items() if row.outcome == "stopped"
    }:
        verdict.problems.append("trials that were stopped and trials whose outcome is stopped are not the same")
    ledger = Ledger.open(search.storage, "a")
    try:
        stopper = build_stopper(ledger.experiment)
        for record in ledger.counted():
            for epoch, saved in record.epochs.items():
                stopper.record(record.number, epoch, saved.best)
    finally:
        ledger.close()
    filled = {level: values for level, values in stopper.rungs.items() if values}  # type: ignore[attr-defined]
    if filled != rungs:
        verdict.problems.append(f"rungs from the ledger {filled}, from the curves {rungs}")


# ------------------------------------------------------------------------------------------------------------ the views


def judge_mlflow(search: Search, rows: dict[int, Row], verdict: Verdict) -> None:
    """MLflow as it was logged live, against MLflow rebuilt from the ledger into an empty database."""
    said = "".join(file.read_text() for file in search.folder.glob("session-*.err"))
    if "tunesearch sync a sends the rest" in said:  # MLflow was away at the end: do what the user is told
        tunesearch(search, "sync", "a")
    try:
        live = read_mlflow(search.tracking)
    except Exception as error:  # whatever MLflow and its database raise
        verdict.problems.append(f"MLflow cannot be read: {' '.join(str(error).split())[:200]}")
        return
    rebuilt_uri = f"sqlite:///{search.folder}/rebuilt.db"
    tunesearch(search, "sync", "a", "--tracking-uri", rebuilt_uri)
    rebuilt = read_mlflow(rebuilt_uri)
    wanted = {"parent", *(str(row.number) for row in rows.values() if row.outcome != "duplicate")}
    for what, runs in (("logged live", live), ("rebuilt", rebuilt)):
        for key, several in runs.items():
            if len(several) != 1:
                verdict.problems.append(f"MLflow {what} has {len(several)} runs of {key}")
            if any(run["status"] == "RUNNING" for run in several):
                verdict.zombies += 1
                verdict.problems.append(f"MLflow {what}: the run of {key} is still RUNNING")
        if set(runs) != wanted:
            verdict.problems.append(f"MLflow {what} has runs of {sorted(runs)}")
    for key in sorted(set(live) & set(rebuilt)):
        one, other = live[key][0], rebuilt[key][0]
        for part in ("status", "params", "tags", "metrics"):
            if one[part] != other[part]:
                verdict.problems.append(f"MLflow's {part} of {key}, live and rebuilt: {_apart(one[part], other[part])}")
        outcome = one["tags"].get("tunesearch.outcome")
        if key != "parent" and int(key) in rows and outcome != rows[int(key)].outcome:
            verdict.problems.append(f"MLflow says that trial {key} is {outcome}")


def _apart(one: Any, other: Any) -> str:
    if not isinstance(one, dict):
        return f"{one} against {other}"
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return f"{names[:4]}: " + "; ".join(f"{one.get(name)} against {other.get(name)}"[:200] for name in names[:2])


def read_mlflow(uri: str) -> dict[str, list[dict[str, Any]]]:
    """The runs of the one experiment by the trial's number, or ``parent``, without ids and paths."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("faults")
    if experiment is None:
        return {}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.info.run_id for run in runs if run.data.tags["tunesearch.trial"] == "parent"}
    for run in runs:
        tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"}
        tags["has its parent"] = str(run.data.tags.get("mlflow.parentRunId") in parents)
        metrics = {
            name: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        run_of = {"status": run.info.status, "params": dict(run.data.params), "tags": tags, "metrics": metrics}
        found[tags["tunesearch.trial"]].append(run_of)
    return dict(found)


# -------------------------------------------------------------------------------------------------------- the leftovers


def judge_leftovers(search: Search, verdict: Verdict) -> None:
    """Nothing runs any more, and no file is left that only a running search needs."""
    for process in search.left_running(patience=15):
        verdict.zombies += 1
        verdict.problems.append(f"still running: {process}")
    for event in search.events:
        if event.left:
            verdict.problems.append(f"still running 10 s after {event.kill}: {event.left}")
    for folder in search.ray_folders_left():
        verdict.problems.append(f"left behind: {folder}")
    folder = search.storage / "a"
    for file in folder.rglob("*"):
        if file.name == "last.pt" or file.name.startswith(".") or file.is_relative_to(folder / "ray"):
            verdict.problems.append(f"left behind: {file.relative_to(folder)}")


def tunesearch(search: Search, *arguments: str) -> str:
    """Stdout of a command on the search's storage."""
    command = [sys.executable, "-m", "tunesearch", *arguments, "--storage", str(search.storage)]
    done = subprocess.run(
        command, cwd=search.folder, env=search.environment, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def retrained(events: list[Event], verdict: Verdict) -> int:
    """Epochs that all kills together cost."""
    assert len(events) == len(verdict.retrained)
    return sum(verdict.retrained)
