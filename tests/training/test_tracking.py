"""Promotion moves an alias to the version of exactly this artefact; a live evaluation becomes a run."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from common.errors import PipelineError
from serving.contract import artifact
from tests import tiny
from training.__main__ import main
from training.tracking import Tracker

pytestmark = [  # from within SQLAlchemy and MLflow
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.usefixtures("tracked")
def test_the_alias_moves_to_the_version_of_this_artefact(model: Path, capsys: pytest.CaptureFixture[str]):
    """Of two versions only the promoted one has the alias; an unknown artefact is reported."""
    config = tiny.train_config().tracking
    tracker = Tracker(config)
    shutil.copy(model, "first.pt")
    second = tiny.write_artifact(Path("second.pt"), seed=2)
    versions = {}
    for path in (Path("first.pt"), second):
        sha = artifact.read(path).sha256
        versions[path.name] = tracker.register("tiny", [path], {"sha256": sha}, config.alias)
    tracker.finish()
    for name in ("first.pt", "second.pt", "first.pt"):
        assert main(["promote", name]) == 0
        client = MlflowClient(tracker.uri)
        assert str(client.get_model_version_by_alias("tiny", "champion").version) == versions[name]
    assert str(client.get_model_version_by_alias("tiny", config.alias).version) == versions["second.pt"]
    tiny.write_artifact(Path("third.pt"), seed=3)
    assert main(["promote", "third.pt"]) == 2
    assert "none of the run" in capsys.readouterr().err


def test_a_live_evaluation_is_recorded(tracked: Path, capsys: pytest.CaptureFixture[str]):
    """Figures, gates and files in a run of a separate experiment; an empty folder is reported."""
    assert main(["track", "live"]) == 2
    assert "make evaluate-live first" in capsys.readouterr().err
    Path("live").mkdir()
    Path("live/summary.md").write_text("fine")
    figures = {
        "model": {"name": "tiny", "version": "1"},
        "photos": 6,
        "failed_share": 0.0,
        "throughput_per_second": 10.0,
        "retries": 0,
        "latency_ms": {"p50": 20.0},
        "accuracy": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 6},
        "roc_auc": {"value": None, "low": None, "high": None, "n": 6},
        "gates": {"accuracy_min": True, "slow_share_max": None},
    }
    Path("live/live.json").write_text(json.dumps(figures))
    assert main(["track", "live"]) == 0
    run_id = capsys.readouterr().out.split()[-1]
    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (
        client.get_experiment(run.info.experiment_id).name
        == f"{tiny.train_config().tracking.experiment}-live"
    )
    assert run.data.metrics["accuracy"] == 0.9
    assert run.data.metrics["latency_p50_ms"] == 20.0
    assert "roc_auc" not in run.data.metrics
    assert run.data.tags["gate.accuracy_min"] == "passes"
    assert run.data.tags["gate.slow_share_max"] == "too few photos to tell"
    assert {file.path for file in client.list_artifacts(run_id)} == {"live.json", "summary.md"}


@pytest.mark.usefixtures("tracked")
def test_runs_with_one_seed_have_names_of_their_own():
    """A training seeds the generator that MLflow would draw a name from."""
    names = set()
    for _ in range(3):
        random.seed(17)
        tracker = Tracker(tiny.train_config().tracking)
        names.add(tracker.client.get_run(tracker.run_id).info.run_name)
        tracker.finish()
    assert len(names) == 3


@pytest.mark.usefixtures("tracked")
def test_a_damaged_database_is_an_error_with_a_next_step():
    """Not a trace from SQLAlchemy."""
    Path("mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(PipelineError, match="moved away: a new one is made"):
        Tracker(tiny.train_config().tracking)


def test_a_moved_folder_is_reported(tracked: Path, monkeypatch: pytest.MonkeyPatch):
    """MLflow would go on writing to the old path, or fail there at the end of a training."""
    config = tiny.train_config().tracking
    Tracker(config).finish()
    elsewhere = tracked.with_name(f"{tracked.name}-moved")
    shutil.copytree(tracked, elsewhere, symlinks=True)
    (elsewhere / "mlruns").mkdir(exist_ok=True)
    shutil.rmtree(tracked)
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it
    with pytest.raises(PipelineError, match=rf"in {tracked}/mlruns, which is not there: .* moved or copied"):
        Tracker(config)
    tracked.mkdir()
    (tracked / "mlruns").symlink_to(elsewhere / "mlruns")
    Tracker(config).finish()


def test_a_locked_database_is_reported(tracked: Path, monkeypatch: pytest.MonkeyPatch):
    """With what to do."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    with closing(sqlite3.connect(tracked / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PipelineError, match=r"database is locked.*end that one"):
            Tracker(tiny.train_config().tracking)
