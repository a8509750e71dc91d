"""A search keeps its trials, resumes an interrupted one, and records all of them below one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from common.errors import PipelineError
from tests.tiny import ROOT, train_config
from training.config import TrainConfig
from training.fit import checkpoint
from training.fit.predictions import Predictions
from training.photos.manifest import Manifest
from training.place import Place
from training.study import search, variants
from training.tracking import Tracker

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
Train = Callable[[TrainConfig, Manifest, Place, Mapping[str, str]], tuple[Predictions, str]]


@pytest.fixture
def pets(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The drawn photos with a configuration of their own, of a tiny network."""
    (place.root / "configs").unlink()
    shutil.copytree(ROOT / "configs", place.root / "configs")
    configure(place)
    monkeypatch.setattr(variants, "SHORT", {"finetune.input_sizes": "[32]", "finetune.epochs_per_pass": "1"})
    return place


def configure(place: Place, *overrides: str) -> None:
    """Write the configuration."""
    config = train_config("--tracking.experiment", "pets", *overrides)
    place.train_config.write_text(yaml.safe_dump(asdict(config)))


def runs_of(place: Place) -> list[Run]:
    """All runs of the search's experiment."""
    client = MlflowClient(f"sqlite:///{place.root}/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("pets-tune").experiment_id])


def pretended(*faults: BaseException | None) -> tuple[Train, list[float]]:
    """A training that takes no time and raises `faults` in turn, and the learning rates that it was given.

    The lower the learning rate, the lower the loss.
    """
    tried: list[float] = []

    def train(
        config: TrainConfig, manifest: Manifest, own: Place, tags: Mapping[str, str]
    ) -> tuple[Predictions, str]:
        rate = config.finetune.learning_rate
        tried.append(rate)
        with Tracker(config.tracking) as run:
            run.set_tags(dict(tags))
            if len(tried) <= len(faults) and (fault := faults[len(tried) - 1]):
                raise fault
        origin = checkpoint.Run(run.run_id, config.tracking.experiment, manifest.sha256, "unknown")
        checkpoint.write_run(own.run, origin)
        logits = np.array([[5.0, 0.0], [0.0, 5.0], [5000 * rate, 0.0]])
        return Predictions(logits, np.array([0, 1, 1])), "finetune"

    return train, tried


def test_trials_are_counted_over_all_searches_and_listed_by_loss(
    pets: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An interrupted trial is taken up with its values; one whose training fails is recorded as failed."""
    train, tried = pretended(None, KeyboardInterrupt(), None, RuntimeError("out of memory"))
    monkeypatch.setattr(search, "train", train)
    with pytest.raises(KeyboardInterrupt):
        search.search(2, 3, pets)
    (parent,) = (run for run in runs_of(pets) if "mlflow.parentRunId" not in run.data.tags)
    assert parent.info.status == "KILLED"
    search.search(2, 3, pets)
    assert tried[2] == tried[1]
    assert len(set(tried)) == len(tried) - 1 == 3
    search.search(2, 3, pets)
    assert len(tried) == 4, "there are three already"
    search.search(2, 4, pets)
    table = (pets.tune / "table.md").read_text()
    printed = capsys.readouterr().out
    assert table in printed
    assert "this trial failed: out of memory" in printed
    assert "4 trials in 0.0 minutes, 0.0 each; 0 trials to go" in printed
    assert table.startswith("33 training photos; 4 trials in")
    assert "partly luck" in table
    rows = [line.split(" | ") for line in table.splitlines()[4:]]
    assert [row[1] for row in rows[:3]] == sorted(row[1] for row in rows[:3])
    assert rows[3][1] == "failed"
    assert f"`--finetune.learning_rate {min(tried[0], tried[1], tried[4]):.4g} --" in rows[0][4]
    assert rows[0][4].count("--") == len(search.SPACE)
    runs = runs_of(pets)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == 5
    assert sorted(run.info.status for run in children) == ["FAILED", *3 * ["FINISHED"], "KILLED"]
    assert sum("validation_calibrated_loss" in run.data.metrics for run in children) == 3


def test_a_fault_of_the_pipeline_ends_the_search(pets: Place, monkeypatch: pytest.MonkeyPatch):
    """MLflow that does not answer would otherwise fail every trial."""
    train, tried = pretended(PipelineError("MLflow does not answer"))
    monkeypatch.setattr(search, "train", train)
    with pytest.raises(PipelineError, match="does not answer"):
        search.search(2, 3, pets)
    assert len(tried) == 1


def test_another_recipe_is_another_search(pets: Place, monkeypatch: pytest.MonkeyPatch):
    """Trials of different recipes cannot be compared; the earlier ones are kept."""
    train, tried = pretended()
    monkeypatch.setattr(search, "train", train)
    search.search(2, 2, pets)
    configure(pets, "--loader.batch_size", "4")
    search.search(2, 2, pets)
    assert len(tried) == 4
    configure(pets)
    search.search(2, 3, pets)
    assert len(tried) == 5


@pytest.mark.slow
def test_a_search_resumes_real_trainings(pets: Place, monkeypatch: pytest.MonkeyPatch):
    """The second of three trainings is interrupted, and the third diverges."""
    fit, seen = search.train, []

    def watched(
        config: TrainConfig, manifest: Manifest, own: Place, tags: Mapping[str, str]
    ) -> tuple[Predictions, str]:
        seen.append(config)
        if len(seen) == 2:
            raise KeyboardInterrupt
        if len(seen) == 4:
            config = replace(config, finetune=replace(config.finetune, learning_rate=1e30))
        return fit(config, manifest, own, tags)

    monkeypatch.setattr(search, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        search.search(2, 3, pets)
    search.search(2, 3, pets)
    assert len(seen) == 4
    rows = (pets.tune / "table.md").read_text().splitlines()[4:]
    assert [row.split(" | ")[1] == "failed" for row in rows] == [False, False, True]
    runs = runs_of(pets)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert {run.data.tags["tune.trial"] for run in children} == {"0", "2", "3"}
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED", "FINISHED"]
    assert not [name for run in runs for name in run.data.metrics if "test" in name]
    assert not list(pets.tune.rglob("*test*")), "the test split is neither decoded nor predicted"
    assert not pets.checkpoint.exists()
