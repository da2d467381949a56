"""tunesearch: the best training configuration for a semantic segmentation model, found and handed over.

    import tunesearch
    result = tunesearch.run("voc_unet", smoke=True)
    print(result.best.number, result.best.best_val_miou)

The same verbs as on the command line. Names are imported when they are used, so that ``import tunesearch`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tunesearch.version import __version__

if TYPE_CHECKING:
    from tunesearch.api.looking import compare, leaderboard, list_searches, load, report, sync
    from tunesearch.api.models import ensemble, evaluate, export, predict, train
    from tunesearch.api.result import SearchResult
    from tunesearch.api.searching import confirm, resume, run
    from tunesearch.api.steering import enqueue, extend, retry, stop
    from tunesearch.engine.callback import SearchCallback
    from tunesearch.errors import Halted, InputError, NoUsableTrial, Problem, TunesearchError
    from tunesearch.experiment import Experiment, load_experiment
    from tunesearch.segmentation.config import DataConfig, TrainConfig
    from tunesearch.segmentation.epoch import EpochMetrics
    from tunesearch.segmentation.trainer import Trainer

_HOME = {
    "tunesearch.api.looking": ("compare", "leaderboard", "list_searches", "load", "report", "sync"),
    "tunesearch.api.models": ("ensemble", "evaluate", "export", "predict", "train"),
    "tunesearch.api.result": ("SearchResult",),
    "tunesearch.api.searching": ("confirm", "resume", "run"),
    "tunesearch.api.steering": ("enqueue", "extend", "retry", "stop"),
    "tunesearch.engine.callback": ("SearchCallback",),
    "tunesearch.errors": ("Halted", "InputError", "NoUsableTrial", "Problem", "TunesearchError"),
    "tunesearch.experiment": ("Experiment", "load_experiment"),
    "tunesearch.segmentation.config": ("DataConfig", "TrainConfig"),
    "tunesearch.segmentation.epoch": ("EpochMetrics",),
    "tunesearch.segmentation.trainer": ("Trainer",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DataConfig",
    "EpochMetrics",
    "Experiment",
    "Halted",
    "InputError",
    "NoUsableTrial",
    "Problem",
    "SearchCallback",
    "SearchResult",
    "TrainConfig",
    "Trainer",
    "TunesearchError",
    "__version__",
    "compare",
    "confirm",
    "enqueue",
    "ensemble",
    "evaluate",
    "export",
    "extend",
    "leaderboard",
    "list_searches",
    "load",
    "load_experiment",
    "predict",
    "report",
    "resume",
    "retry",
    "run",
    "stop",
    "sync",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'tunesearch' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return __all__
