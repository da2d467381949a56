"""How a search is run, as opposed to what it searches."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from tunesearch.options import Flag, field

ADDRESS = Flag("Ray cluster: local, auto or an address [$RAY_ADDRESS, else a private Ray on this machine].")
ENCODER_WEIGHTS = Flag(
    "File, or folder of ENCODER.pth|.safetensors, that ImageNet weights are read from [downloaded].", kind="path"
)
KEEP_CHECKPOINTS = Flag("Completed trials that keep their weights [all].", kind="kept", metavar="all|best:N")
MAX_CONCURRENT = Flag("Trials at once [what fits].", least=1)
STALL_TIMEOUT = Flag("Start a trial whose heartbeat stopped again after [30m].", kind="duration")
TIME_BUDGET = Flag("End the search after 90s, 30m, 1h30m ...", kind="duration")
TRACKING_URI = Flag("MLflow's [$MLFLOW_TRACKING_URI, else SQLite in the storage folder].")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search is run, as opposed to what it searches; kept in the ledger for ``resume``. Times are in seconds."""

    tracking_uri: str | None = field(TRACKING_URI)
    address: str | None = field(ADDRESS)
    gpus_per_trial: float | None = field(Flag("May be a fraction [1 where there are GPUs].", least=0))
    cpus_per_trial: int | None = field(Flag("[planned from what there is]", least=1))
    max_concurrent: int | None = field(MAX_CONCURRENT)
    encoder_weights: str | None = field(ENCODER_WEIGHTS)
    time_budget: float | None = field(TIME_BUDGET)
    keep_checkpoints: int | None = field(KEEP_CHECKPOINTS)
    stall_timeout: float = field(STALL_TIMEOUT, 1800.0)
    system_metrics: bool = field(Flag("Log this machine's load to MLflow."), False)
    code: str = field("folder of a user's own modules, for every trial; None: that of the search-space file.", ".")

    def cluster(self) -> str:
        """``local``, ``auto`` or the address of a Ray cluster."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    def as_dict(self) -> dict[str, Any]:
        """What is kept in the ledger: plain data."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(SearchOptions)}
