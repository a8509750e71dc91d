"""The only module that uses MLflow: runs, curves, files, registered versions and their aliases."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from lightning.pytorch.loggers import MLFlowLogger
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from common.errors import PipelineError
from serving.contract.card import Card
from training.config import TrackingConfig, TrainConfig


class Tracker:
    """One MLflow run, new or resumed."""

    def __init__(self, config: TrackingConfig, run_id: str | None = None) -> None:
        """Open the run `run_id`, or start a new one if there is none or the store no longer has it.

        Raises:
            PipelineError: the tracking server does not answer, the database cannot be used, or the files of
                earlier runs are not where it says.
        """
        self.config = config
        self.uri = _absolute(os.environ.get("MLFLOW_TRACKING_URI") or config.uri)
        mlflow.set_tracking_uri(self.uri)
        try:
            self.client = MlflowClient(self.uri)
            experiment = self._experiment()
            known = run_id if run_id and self._knows(run_id) else None
            self.run_id: str = known or self.client.create_run(experiment, run_name=_now()).info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        except (MlflowException, SQLAlchemyError) as error:
            raise PipelineError(
                f"MLflow at {self.uri} does not answer: {_reason(error)}. Start it, or set "
                "MLFLOW_TRACKING_URI (sqlite:///mlflow.db needs no server). If another program has the "
                "database locked, end that one. A database that is damaged or of another version of MLflow "
                "can be moved away: a new one is made."
            ) from error

    def _knows(self, run_id: str) -> bool:
        """Whether the store has the run; it may have been deleted or replaced since."""
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        local = self.uri.startswith("sqlite")
        location = Path(self.config.artifact_location).absolute().as_uri() if local else None
        if found:
            kept = urlsplit(found.artifact_location)
            if local and found.artifact_location != location and kept.scheme == "file":
                folder = Path(url2pathname(kept.path))
                if not folder.exists():
                    raise PipelineError(
                        f"MLflow's experiment {self.config.experiment} keeps its files in {folder}, which is "
                        "not there: the project's folder was moved or copied. Link that path to the present "
                        f"{self.config.artifact_location}, or move mlflow.db away: a new one is made."
                    )
            return str(found.experiment_id)
        return str(self.client.create_experiment(self.config.experiment, artifact_location=location))

    def lightning_logger(self) -> MLFlowLogger:
        """A logger for Lightning's trainer that writes to this run."""
        return _Logger(self.config.experiment, tracking_uri=self.uri, run_id=self.run_id)

    def log_config(self, config: TrainConfig) -> None:
        """Log every value of the configuration as a parameter, `section.key`."""
        values = {
            f"{section}.{key}".rstrip("."): value
            for section, part in asdict(config).items()
            for key, value in (part.items() if isinstance(part, dict) else [("", part)])
        }
        self.client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in values.items()])

    def log_metrics(self, values: dict[str, float]) -> None:
        """Log metrics that have no step."""
        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, 0) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags: lineage and other facts to search by."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a picture among the run's files."""
        self.client.log_figure(self.run_id, figure, name)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file among the run's files."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def history(self, suffixes: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
        """`(step, value)` of each metric whose name ends in one of `suffixes`."""
        names = [n for n in self.client.get_run(self.run_id).data.metrics if n.endswith(suffixes)]
        return {
            name: sorted((p.step, p.value) for p in self.client.get_metric_history(self.run_id, name))
            for name in names
        }

    def register(self, name: str, models: Sequence[Path], tags: dict[str, str], alias: str | None) -> str:
        """Log the artefacts to the run; register them as the next version of `name`, with the alias if any.

        Its folder is named by `tags["sha256"]`, so a second export of a run keeps the first version's file.
        """
        folder = f"model/{tags['sha256'][:12]}"
        for model in models:
            self.log_file(model, folder)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/{folder}"
        version: Any = self.client.create_model_version(name, source, self.run_id, tags=tags)
        if alias:
            self.client.set_registered_model_alias(name, alias, version.version)
        return str(version.version)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the run by how the block ended."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.finish("FINISHED" if kind is None else "KILLED" if interrupted else "FAILED")


class _Logger(MLFlowLogger):
    """Leaves the end of the run to the `Tracker`: Lightning would call it finished before the report."""

    def finalize(self, status: str = "success") -> None:
        """Nothing."""


def _reason(error: MlflowException | SQLAlchemyError) -> str:
    return str(error.message if isinstance(error, MlflowException) else error).splitlines()[0]


def promote(config: TrackingConfig, model: Path, card: Card, sha256: str, alias: str) -> str:
    """Register the released artefact in the run that trained it, unless it is; move `alias` to its version.

    Raises:
        PipelineError: MLflow does not answer, or does not have the run.
    """
    uri, run_id = _absolute(os.environ.get("MLFLOW_TRACKING_URI") or config.uri), card.lineage.mlflow_run_id
    try:
        client = MlflowClient(uri)
        versions = client.search_model_versions(f"name = '{card.name}'")
        found = [v for v in versions if v.tags.get("sha256") == sha256]
        if not found and run_id not in {v.run_id for v in versions}:
            raise PipelineError(
                f"MLflow at {uri} has {len(versions)} versions of {card.name}, none of the run {run_id} that "
                "trained this artefact. Set MLFLOW_TRACKING_URI to the store it was trained with."
            )
        if found:
            version = max((v.version for v in found), key=int)
        else:
            tracker = Tracker(config, run_id)
            tags = {"sha256": sha256, "card_version": card.version}
            version = tracker.register(card.name, [model], tags, alias=None)
            tracker.finish()
        client.set_registered_model_alias(card.name, alias, version)
    except (MlflowException, SQLAlchemyError) as error:
        raise PipelineError(
            f"MLflow at {uri} does not answer: {_reason(error)}. Start it, or set MLFLOW_TRACKING_URI."
        ) from error
    return str(version)


def _now() -> str:
    """A run's name: MLflow draws names from the generator that a training seeds, so all would be the same."""
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _absolute(uri: str) -> str:
    """A SQLite URI with an absolute path: MLflow caches stores by URI, whatever the working folder."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or path.startswith("/") else f"sqlite:///{Path(path).absolute()}"
