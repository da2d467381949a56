"""What an actor is given with a trial, and what it needs from a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune import PlacementGroupFactory

from tunesearch.engine.nodes import Demands
from tunesearch.engine.options import SearchOptions
from tunesearch.engine.resources import Resources
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger


@dataclass(frozen=True)
class Assigner:
    """Turns trials into configurations of Ray's trainable, which are plain data.

    Attributes:
        ledger: of the search.
        options: how it is run.
        resources: of one trial.
        demands: what a node must find as the driver has it; None: there is only this machine.
    """

    ledger: Ledger
    options: SearchOptions
    resources: Resources
    demands: Demands | None

    def assign(self, record: TrialRecord, unfit: Sequence[str]) -> dict[str, Any]:
        """The configuration of one trial.

        Args:
            unfit: Ray's ids of the nodes that it is kept away from.
        """
        return {
            "number": record.number,
            "config": record.config.model_dump(mode="json"),
            "search": str(self.ledger.folder.resolve()),
            "folder": str(self.ledger.trial_folder(record.number).resolve()),
            "cpus": self.resources.cpus,
            # One process of the trial's CPUs trains; on a GPU the others prepare its batches.
            "workers": self.resources.cpus - 1 if self.resources.gpus > 0 else 0,
            "encoder_weights": self.options.encoder_weights,
            "code": self.options.code,
            "demands": None if self.demands is None else asdict(self.demands),
            "unfit": list(unfit),
        }


def placement(config: dict[str, Any], *, resources: Resources) -> PlacementGroupFactory:
    """Where a trial of such a configuration may run. Ray sends this to the actors, so it holds plain data alone."""
    barred = [{"ray.io/node-id": f"!in({','.join(config['unfit'])})"}] if config["unfit"] else None
    bundle = {"CPU": resources.cpus, "GPU": resources.gpus}
    return PlacementGroupFactory([bundle], bundle_label_selector=barred)
