"""One training with one seed: from a job to its model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesearch.engine.interruption import Interruption
from tunesearch.errors import InputError
from tunesearch.production.bundle import is_bundle
from tunesearch.production.evaluation.looks import inherit_looks
from tunesearch.production.training.job import Job, run_job
from tunesearch.production.training.output import unfinished_folder
from tunesearch.production.training.reproduction import differences, reproduced
from tunesearch.production.training.result import write_model_folder
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.source import Source
from tunesearch.production.training.unfinished import UnfinishedTraining
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.team import Team
from tunesearch.tracking.tags import measured_on
from tunesearch.tracking.training import TrainingRun


class OneTraining:
    """One training, which goes on where a killed one stood.

    Args:
        job: with its files and its seed.
        output: the model folder to be made.
        name: of the model, and of the run in MLflow.
        on_message: told what is worth knowing.
        on_epoch: told every epoch once its checkpoint is on disk.
    """

    def __init__(
        self,
        job: Job,
        source: Source,
        output: Path,
        *,
        name: str,
        setup: TrainingSetup,
        on_message: Callable[[str], None],
        on_epoch: Callable[[EpochMetrics], None],
    ) -> None:
        self.work = unfinished_folder(output.absolute())
        self.job = replace(job, folder=self.work)
        self.source, self.output, self.name, self.setup = source, output, name, setup
        self.on_message, self.on_epoch = on_message, on_epoch
        self.state = UnfinishedTraining(self.work)
        self.run: TrainingRun | None = None
        self.effective: dict[str, Any] = {}
        self.outcome = ""
        self.best: dict[str, Any] | None = None

    def train(self, interruption: Interruption) -> dict[str, Any]:
        """Train to the end and write the model folder.

        Returns:
            See :func:`~tunesearch.production.training.train.train`.
        """
        fresh, config = not self.work.exists(), self.job.config.model_dump(mode="json")
        self.state.begin({"config": config, "data_digest": self.job.split.digest, "on": self.job.on})
        try:
            self._run(interruption)
        except InputError:
            if fresh and not self.state.curve:  # it was refused before anything was trained
                shutil.rmtree(self.work, ignore_errors=True)
            raise
        completed, same = self.outcome == "completed", None
        if completed:
            same = self._hand_over()
        else:
            metrics = {"outcome": self.outcome, "epochs": self.state.curve}
            write_text(self.work / "metrics.json", json.dumps(metrics, indent=1))
        folder = self.output if completed else self.work
        self._close_run(folder)
        if completed:
            shutil.rmtree(self.work, ignore_errors=True)
        return {
            "outcome": self.outcome,
            "output": str(folder),
            "weights": str(folder / "weights.safetensors") if completed else None,
            "best": self.best,
            "epochs": len(self.state.curve),
            "reproduced": same,
        }

    def _run(self, interruption: Interruption) -> None:
        """Train in this process, or in several."""
        workers, address = self.setup.workers, self.setup.address
        if workers == 1 and address is None:
            run_job(self.job, Team(), self._on_event)
            return
        from tunesearch.production.training.data_parallel import train_together  # imports Ray

        train_together(
            self.job,
            workers,
            self._on_event,
            address=address or "local",
            interruption=interruption,
            on_message=self.on_message,
        )

    # --------------------------------------------------------------------------------------------- while it is trained

    def _on_event(self, kind: str, value: Any) -> None:
        if kind == "built":
            self._on_built(value["effective"], value["resumed"])
        elif kind == "epoch":
            metrics = EpochMetrics.from_dict(value)
            self.state.note(metrics=metrics)
            assert self.run is not None
            self.run.epoch(metrics)
            self.on_epoch(metrics)
        else:
            self.outcome, self.best = str(value["outcome"]), value["best"]

    def _on_built(self, effective: dict[str, Any], resumed: dict[str, Any] | None) -> None:
        """The trainer is built, perhaps once more after a process died."""
        self.effective = effective
        write_text(self.work / "effective.json", json.dumps(effective, indent=1))
        if resumed is None:
            self.state.start_over()
        else:
            self.on_message(f"going on after epoch {resumed['epoch']}")
            self.state.note(metrics=EpochMetrics.from_dict(resumed))
        for text in differences(self.source, effective):
            self.on_message(f"note: {text}")
        if self.run is None:
            self.run = self._open_run()

    def _open_run(self) -> TrainingRun:
        """The training's run in MLflow: an earlier session's, or a new one."""
        job, origin, objective = self.job, self.source.origin, self.source.objective
        tags = {"tunesearch.on": str(job.on)}
        tags |= {f"tunesearch.{key}": str(origin.get(key, "")) for key in ("search", "trial")}
        tags |= measured_on(job.data, job.split.digest, objective=objective.metric, resolution=objective.resolution)
        run = TrainingRun(
            self.setup.tracking_uri,
            storage=self.setup.storage,
            name=self.name,
            params=job.config.model_dump(mode="json"),
            tags=tags,
            run_id=self.state.run_id,
        )
        self.state.note(run_id=run.run_id)
        return run

    # ------------------------------------------------------------------------------------------------------- its end

    def _hand_over(self) -> bool | None:
        """Write the model folder; whether the curve is the recorded one."""
        if not is_bundle(self.output):
            assert self.best is not None
            write_model_folder(
                self.job,
                self.source,
                self.output,
                name=self.name,
                effective=self.effective,
                best=EpochMetrics.from_dict(self.best),
                curve=self.state.epochs,
                formats=self.setup.formats,
                on_message=self.on_message,
            )
        bundle = self.source.bundle
        if bundle is not None and bundle.split.test == self.job.split.test:
            inherit_looks(bundle.folder, self.output)  # also where it was killed between the two
        return reproduced(self.job, self.source, self.state.epochs, self.on_message)

    def _close_run(self, folder: Path) -> None:
        if self.run is None:
            return
        files = [folder / name for name in ("weights.safetensors", "metrics.json", "effective.json", "config.yaml")]
        self.run.finish(self.outcome, [file for file in files if file.is_file()])
        if self.run.trouble:
            self.on_message(f"note: MLflow does not have all of it ({self.run.trouble})")
