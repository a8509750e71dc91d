"""The one room of MLflow: runs, curves, files, registered versions and their aliases."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
from lightning.pytorch.loggers import MLFlowLogger
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from common.errors import PipelineError
from training.config import TrackingConfig, TrainConfig


class Tracker:
    """One MLflow run, new or taken up again."""

    def __init__(self, config: TrackingConfig, run_id: str | None = None) -> None:
        """Open the run `run_id`, or a new one.

        Raises:
            PipelineError: the tracking server cannot be reached, or does not know the run.
        """
        self.config = config
        self.uri = absolute(os.environ.get("MLFLOW_TRACKING_URI") or config.uri)
        mlflow.set_tracking_uri(self.uri)
        try:
            self.client = MlflowClient(self.uri)
            experiment = self._experiment()
            self.run_id: str = run_id or self.client.create_run(experiment).info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        except MlflowException as error:
            raise PipelineError(
                f"MLflow at {self.uri} does not answer: {error.message}. Start it, or set "
                "MLFLOW_TRACKING_URI (sqlite:///mlflow.db needs no server)."
            ) from error

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        if found:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite")
        location = Path(self.config.artifact_location).absolute().as_uri() if local else None
        return str(self.client.create_experiment(self.config.experiment, artifact_location=location))

    def lightning_logger(self) -> MLFlowLogger:
        """A logger for Lightning's trainer that writes to this run."""
        return MLFlowLogger(self.config.experiment, tracking_uri=self.uri, run_id=self.run_id)

    def log_config(self, config: TrainConfig) -> None:
        """Every value of the configuration as a parameter, `section.key`."""
        for section, values in asdict(config).items():
            for key, value in values.items() if isinstance(values, dict) else [("", values)]:
                self.client.log_param(self.run_id, f"{section}.{key}".rstrip("."), value)

    def log_metrics(self, values: dict[str, float]) -> None:
        """Final figures."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, name, value)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Lineage and other facts to search by."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)

    def log_figure(self, figure: Figure, name: str) -> None:
        """A picture among the run's files."""
        self.client.log_figure(self.run_id, figure, name)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """A file among the run's files."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def history(self, suffixes: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
        """`(step, value)` of each metric whose name ends in one of `suffixes`."""
        names = [n for n in self.client.get_run(self.run_id).data.metrics if n.endswith(suffixes)]
        return {
            name: sorted((p.step, p.value) for p in self.client.get_metric_history(self.run_id, name))
            for name in names
        }

    def register(self, name: str, model: Path, tags: dict[str, str]) -> str:
        """Keep the artefact with the run and register it as the next version of `name`.

        Its folder is named by `tags["sha256"]`: a second export of a run leaves the first version's file.
        """
        folder = f"model/{tags['sha256'][:12]}"
        self.log_file(model, folder)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/{folder}"
        version: Any = self.client.create_model_version(name, source, self.run_id, tags=tags)
        self.client.set_registered_model_alias(name, self.config.alias, version.version)
        return str(version.version)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)


def promote(config: TrackingConfig, name: str, sha256: str, alias: str) -> str:
    """Move `alias` to the registered version whose artefact has this hash; return the version.

    Raises:
        PipelineError: MLflow cannot be reached, or no version of `name` has this artefact.
    """
    uri = absolute(os.environ.get("MLFLOW_TRACKING_URI") or config.uri)
    try:
        client = MlflowClient(uri)
        versions = client.search_model_versions(f"name = '{name}'")
        found = [v for v in versions if v.tags.get("sha256") == sha256]
        if not found:
            raise PipelineError(
                f"MLflow at {uri} has {len(versions)} versions of {name}, none with sha256 "
                f"{sha256[:12]}…. Set MLFLOW_TRACKING_URI to where it was trained."
            )
        latest = max(found, key=lambda version: int(version.version))
        client.set_registered_model_alias(name, alias, latest.version)
    except MlflowException as error:
        raise PipelineError(f"MLflow at {uri} does not answer: {error.message}.") from error
    return str(latest.version)


def log_live(config: TrackingConfig, folder: Path) -> str:
    """Keep what `evaluation.service.live` wrote as a run of the experiment `<experiment>-live`; return its id.

    Raises:
        PipelineError: there is no live evaluation in the folder, or MLflow cannot be reached.
    """
    try:
        figures = json.loads((folder / "live.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(f"There is no live evaluation in {folder}: make evaluate-live first.") from error
    tracker = Tracker(replace(config, experiment=f"{config.experiment}-live"))
    scalars = {name: figures[name] for name in ("failed_share", "throughput_per_second", "retries", "photos")}
    scalars |= {name: value["value"] for name, value in figures.items() if _is_figure(value)}
    scalars |= {f"latency_{name}_ms": value for name, value in figures["latency_ms"].items()}
    tracker.log_metrics({name: float(value) for name, value in scalars.items()})
    tracker.set_tags(
        {f"model.{name}": str(value) for name, value in figures["model"].items()}
        | {f"gate.{name}": str(passed) for name, passed in figures["gates"].items()}
        | {"against_test": figures.get("against_test", {}).get("verdict", "not compared")}
    )
    for path in sorted(folder.iterdir()):
        if path.is_file():
            tracker.log_file(path)
    tracker.finish()
    return tracker.run_id


def _is_figure(value: object) -> bool:
    """Whether it is a value with an interval, and defined."""
    return isinstance(value, dict) and isinstance(value.get("value"), float | int)


def absolute(uri: str) -> str:
    """A SQLite file by its whole path: MLflow keeps stores by name, whatever folder was meant."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or path.startswith("/") else f"sqlite:///{Path(path).absolute()}"


def git_commit() -> str:
    """The commit of the working tree, `-dirty` if its code is changed; outside git GIT_COMMIT."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        made_by_the_line = [":!dvc.lock", ":!data", ":!models", ":!reports"]
        status = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *made_by_the_line]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT") or "unknown"
    return commit + ("-dirty" if changed else "")
