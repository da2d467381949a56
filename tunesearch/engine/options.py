"""How a search is run, as opposed to what it searches."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How a search is run, as opposed to what it searches; kept in the ledger for ``resume``.

    Attributes:
        address: of a Ray cluster; ``local``: a private Ray on this machine; None: ``$RAY_ADDRESS``, else local.
        cpus_per_trial, gpus_per_trial, max_concurrent: None: planned from what there is.
        encoder_weights: file or folder of ImageNet weights; None: the library's loader.
        time_budget: seconds of searching, all sessions together; None: no end.
        tracking_uri: MLflow's; None: SQLite in the storage folder.
        system_metrics: log the machine's load to MLflow.
        code: folder put on the import path of every trial, for a user's own model, loss or data set.
        keep_checkpoints: how many completed trials keep their weights, the best ones; None: all.
        stall_timeout: seconds without a sign of life after which a trial's process is ended and started again.
    """

    address: str | None = None
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    encoder_weights: str | None = None
    time_budget: float | None = None
    tracking_uri: str | None = None
    system_metrics: bool = False
    code: str = "."
    keep_checkpoints: int | None = None
    stall_timeout: float = 1800.0

    def cluster(self) -> str:
        """``local``, ``auto`` or the address of a Ray cluster."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the ledger."""
        return asdict(self)
