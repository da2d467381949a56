"""The folders of searches: ``STORAGE/NAME``, and what lies in one.

ledger.db         the study (SQLite); optuna-dashboard opens it as it is. Or ledger.json: where it lies on a server
experiment.yaml   the frozen search space, every override resolved
split.json        the frozen train / val / test lists with hashes
warm_start.json   what the sampler knows from other searches, where it was started with --warm-start
trials/0007/      one trial's checkpoint, best weights, pictures, effective configuration
driver.lock       held by the process that drives the search
"""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

from tunesearch.errors import Problem, SearchNameError
from tunesearch.experiment import Experiment
from tunesearch.ledger.names import check_name

EXPERIMENT = "experiment.yaml"
SPLIT = "split.json"


def require_free_name(storage: Path, name: str) -> None:
    """Refuse a name that is no valid name or taken.

    Raises:
        SearchNameError: it is.
    """
    check_name(name)
    if (storage / name).exists():
        hint = f"tunesearch resume {name} continues it; --name gives the new one another name"
        raise SearchNameError(Problem(f"search {name}", f"exists already in {storage}", hint=hint))


def searches(storage: Path) -> list[str]:
    """Names of the searches in a storage folder, oldest first."""
    # experiment.yaml is written once, when the search is made.
    found = sorted(storage.glob(f"*/{EXPERIMENT}"), key=lambda path: path.stat().st_mtime) if storage.is_dir() else []
    return [path.parent.name for path in found if not path.parent.name.startswith(".")]


def read_experiment(folder: Path) -> Experiment:
    """The frozen experiment of a search's folder."""
    file = folder / EXPERIMENT
    return Experiment.from_document(YAML(typ="safe").load(file.read_text("utf-8")), where=str(file))
