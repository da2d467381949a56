"""The fault campaign: many searches, each killed several times, resumed each time, and judged. ``make faults`` runs it.

    python tests/faults/campaign.py [-o FOLDER] [--only NAME ...]

Writes FOLDER/results.jsonl, one line per search, and FOLDER/table.md. What is in results.jsonl is not run again, so
that a campaign that was interrupted goes on. Ends with 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import zlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import VICTIMS, Campaigned, Kill, Search
from inject.sitecustomize import POINTS
from verify import verify

FOLDS = ("--set", "data.folds={k_fold: 2}")


@dataclass(frozen=True)
class Plan:
    """One search of the campaign.

    Attributes:
        kills: in this order.
        concurrency: trials at once; at 1 its trials are compared with those of a search that nobody kills.
        folds: every trial trains two folds.
        served: it logs to an MLflow server.
        trials: how many; the first ones are those of the search that nobody kills, which has ten.
    """

    name: str
    kills: tuple[Kill, ...]
    concurrency: int = 1
    folds: bool = False
    served: bool = False
    trials: int = 10


def kills(victim: str, *moments: str | tuple[str, int]) -> tuple[Kill, ...]:
    """Kills of one victim at points, or at (point, count)."""
    pairs = [(moment, 1) if isinstance(moment, str) else moment for moment in moments]
    return tuple(Kill(victim, point, count) for point, count in pairs)


PLANS = (
    Plan(
        "driver-ledger",
        kills("driver", ("ledger.attribute before", 3), "ledger.ask before", "ledger.ask after",
              ("ledger.commit_epoch before", 2), ("ledger.commit_epoch inside", 2), ("ledger.commit_epoch after", 3)),
    ),
    Plan(
        "driver-endings",
        kills("driver", "ledger.end before", "ledger.end inside", ("ledger.end after", 2), ("take after", 4),
              "ledger.attribute after", "starting"),
    ),
    Plan(
        "driver-decisions",
        kills("driver", ("asha before", 2), ("asha after", 3), ("take before", 4), ("asha before", 3), "training"),
    ),
    Plan(
        "driver-checkpoints",
        kills("driver", ("schema inside", 12), ("checkpoint before", 3), ("checkpoint after", 3), ("training", 2))
        + kills("driver", "starting", ("training", 4)),
    ),
    Plan(
        "actors",
        kills("actor", ("checkpoint before", 3), ("checkpoint after", 2), ("ledger.commit_epoch after", 2))
        + kills("actor", ("asha after", 2), ("training", 2), ("training", 3)),
    ),
    Plan(
        "ray-and-driver",
        kills("ray and driver", ("ledger.commit_epoch after", 3), ("checkpoint before", 2), "asha after")
        + kills("ray and driver", ("training", 2), "starting"),
    ),
    Plan(
        "ray",
        kills("ray", ("take before", 3), ("checkpoint after", 2), "asha after", ("training", 2), ("training", 3)),
    ),
    Plan(
        "mlflow",
        kills("mlflow", "tracker.create_run before", ("training", 1), "tracker.create_run after")
        + kills("mlflow", "tracker.log_batch before", ("tracker.log_batch after", 3), ("training", 2)),
        served=True,
        trials=16,
    ),
    Plan(
        "tracker-writes",
        kills("driver", "tracker.create_run before", ("tracker.create_run after", 2), ("tracker.log_batch before", 2),
              ("tracker.log_batch after", 3))
        + kills("mlflow", ("tracker.log_batch after", 2)) + kills("driver", ("training", 3)),
        served=True,
    ),
    Plan(
        "two-at-once",
        kills("driver", ("ledger.commit_epoch inside", 4), ("training", 3))
        + kills("actor", ("checkpoint before", 3), ("training", 3))
        + kills("ray and driver", ("asha after", 3)) + kills("driver", ("take before", 3)),
        concurrency=2,
    ),
    Plan(
        "two-at-once-ray",
        kills("ray", ("training", 3)) + kills("actor", ("ledger.end after", 2))
        + kills("ray and driver", ("training", 4)) + kills("driver", ("checkpoint after", 2)),
        concurrency=2,
    ),
    Plan(
        "folds",
        kills("driver", ("checkpoint before", 4), ("checkpoint after", 3)) + kills("actor", ("checkpoint after", 3))
        + kills("ray and driver", ("training", 2)),
        folds=True,
    ),
)  # fmt: skip


def attack(plan: Plan, folder: Path, calm: Search | None) -> dict[str, Any]:
    """Run a plan; gives its line of results.jsonl."""
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--trials", str(plan.trials), *(FOLDS if plan.folds else ()))
    search = Search(
        folder, concurrency=plan.concurrency, options=options, seed=zlib.crc32(plan.name.encode()), served=plan.served
    )
    begun = time.monotonic()
    missed: list[str] = []
    try:
        for kill in plan.kills:
            try:
                event = search.kill(kill)
                say(f"  {kill.victim} at {kill.point}: driver's exit {event.exit_code} after {event.seconds:.1f} s")
            except Campaigned as error:
                missed.append(f"{kill.victim} at {kill.point} {kill.count}: {error}")
                say(f"  missed: {missed[-1]}")
        code = search.finish()
        verdict = verify(search, calm if plan.concurrency == 1 else None)
        if code != 0:
            verdict.problems.append(f"the last session ended with {code}: {search.said()[-500:]}")
        verdict.zombies += len(late := search.left_running(patience=90, late=True))
        verdict.problems += [f"still running: {process}" for process in late]
    finally:
        search.close()
    for event in search.events:
        ended = event.kill.victim not in ("actor", "mlflow")
        if ended and event.exit_code != (-9 if "driver" in event.kill.victim else 4):
            how = f"the driver ended with {event.exit_code} after {event.seconds:.0f} s: {event.words[-300:]}"
            verdict.problems.append(f"{event.kill}: {how}")
    return {
        "name": plan.name,
        "concurrency": plan.concurrency,
        "seconds": round(time.monotonic() - begun),
        "sessions": search.session,
        "events": [
            {**asdict(event), "retrained": cost}
            for event, cost in zip(search.events, verdict.retrained, strict=True)
        ],
        "missed": missed,
        **{name: value for name, value in asdict(verdict).items() if name != "retrained"},
    }  # fmt: skip


def undisturbed(folder: Path, *, folds: bool) -> Search:
    """The search that nobody kills, at concurrency 1; run once."""
    if (folder / "done").exists():
        return Search.read(folder)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"{folder.name}: nobody is killed")
    search = Search(folder, options=FOLDS if folds else ())
    try:
        if (code := search.finish()) != 0:
            raise SystemExit(f"the search that nobody kills ended with {code}: {search.said()}")
        for problem in verify(search).problems:
            say(f"  does not hold: {problem}")
    finally:
        search.close()
    (folder / "done").touch()
    return search


def table(results: list[dict[str, Any]]) -> str:
    """What was killed, at which point, how often, and what it cost."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for result in results:
        for event in result["events"]:
            point = event["kill"]["point"]
            where = "a random moment" + (" of its start" if point == "starting" else "") if " " not in point else point
            row = rows[event["kill"]["victim"], where]
            row[0] += 1
            row[1] += event["retrained"]
    lines = ["| killed | at | times | epochs retrained |", "|---|---|---:|---:|"]
    order = {victim: index for index, victim in enumerate(VICTIMS)}
    points = {point: index for index, point in enumerate(POINTS)}
    for (victim, where), (count, cost) in sorted(
        rows.items(), key=lambda it: (order[it[0][0]], points.get(it[0][1], 99))
    ):
        lines.append(f"| {victim} | {where} | {count} | {cost} |")
    total = [sum(row[index] for row in rows.values()) for index in range(2)]
    lines.append(f"| **all** | | **{total[0]}** | **{total[1]}** |")
    lines += ["", "| search | trials at once | kills | sessions | trials lost | repeated | zombies | seconds | holds |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    for result in results:
        values = [result[name] for name in ("name", "concurrency")] + [len(result["events"]), result["sessions"]]
        values += [result[name] for name in ("lost", "repeated", "zombies", "seconds")]
        values.append("yes" if not result["problems"] else f"no: {len(result['problems'])} problems")
        lines.append("| " + " | ".join(str(value) for value in values) + " |")
    missed = [point for point in POINTS if not any(where == point for _, where in rows)]
    lines += ["", f"Named points that were not reached: {', '.join(missed) or 'none'}."]
    for result in results:
        lines += [f"- {result['name']}: {text}" for text in [*result["problems"], *result["missed"]]]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/faults"))
    parser.add_argument("--only", nargs="*", choices=[plan.name for plan in PLANS], help="these searches alone")
    given = parser.parse_args()
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.environ["TUNESEARCH_CACHE"] = str(output / "cache")
    file = output / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for plan in PLANS:
        if plan.name in {result["name"] for result in results} or (given.only and plan.name not in given.only):
            continue
        calm = None
        if plan.concurrency == 1:
            calm = undisturbed(output / ("calm-folds" if plan.folds else "calm"), folds=plan.folds)
        say(f"{plan.name}: {len(plan.kills)} kills")
        results.append(attack(plan, output / plan.name, calm))
        for problem in results[-1]["problems"]:
            say(f"  does not hold: {problem}")
        with file.open("a") as lines:
            lines.write(json.dumps(results[-1]) + "\n")
        (output / "table.md").write_text(table(results))
    say("\n" + table(results))
    return int(any(result["problems"] or result["missed"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
