"""A search keeps its trials, resumes an interrupted one, and records all of them below one run."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import pytest
import yaml
from mlflow.tracking import MlflowClient

from tests.tiny import ROOT, train_config
from training.config import TrainConfig
from training.fit.predictions import Predictions
from training.photos.manifest import Manifest
from training.place import Place
from training.study import search, variants

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.mark.slow
def test_a_search_resumes_and_lists_its_trials(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Three trials, of which the second is interrupted and the third diverges; then a fourth is asked for."""
    (place.root / "configs").unlink()
    shutil.copytree(ROOT / "configs", place.root / "configs")
    place.train_config.write_text(yaml.safe_dump(asdict(train_config("--tracking.experiment", "pets"))))
    monkeypatch.setattr(variants, "SHORT", {"finetune.input_sizes": "[32]", "finetune.epochs_per_pass": "1"})
    train, tried = search.train, []

    def watched(config: TrainConfig, manifest: Manifest, own: Place) -> tuple[Predictions, str]:
        tried.append(config.finetune.learning_rate)
        if len(tried) == 2:
            raise KeyboardInterrupt
        found, better = train(config, manifest, own)
        if len(tried) == 4:
            found.log_probabilities[:] = float("nan")
        return found, better

    monkeypatch.setattr(search, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        search.search(2, 3, place)
    search.search(2, 3, place)
    assert len(tried) == 4
    assert tried[2] == tried[1], "the interrupted trial is taken up again"
    assert len(set(tried)) == 3
    search.search(2, 3, place)
    assert len(tried) == 4, "there are three already"
    search.search(2, 4, place)
    assert len(tried) == 5
    table = (place.tune / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "33 training photos; 4 trials in" in table
    assert table.count("diverged") == 1
    losses = [float(line.split("|")[2]) for line in table.splitlines()[4:-1]]
    assert losses == sorted(losses)
    client = MlflowClient(f"sqlite:///{place.root}/mlflow.db")
    experiment = client.get_experiment_by_name("pets-tune").experiment_id
    runs = client.search_runs([experiment])
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs} - {None}
    assert len(parents) == 1
    assert sum(run.data.tags.get("mlflow.parentRunId") in parents for run in runs) == 4
    assert not place.checkpoint.exists()
