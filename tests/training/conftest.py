"""Fixtures of the training tests: drawn photos, an MLflow database, and one finished training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from common.production import PRODUCTION
from tests.once import Once
from tests.tiny import ROOT, data_config, train_config
from training.photos.catalogue import prepare
from training.photos.sources import fetch
from training.place import Place


@pytest.fixture(scope="session")
def drawn(once: Once) -> Place:
    """Raw photos and manifest of 40 drawn pictures per class; read-only."""

    def make(folder: Path) -> None:
        place = Place(folder)
        fetch(data_config("--fetch.source", "sample", "--fetch.sample_per_class", "40").fetch, place)
        prepare(data_config().prepare, place)

    return Place(once("drawn", make))


@pytest.fixture
def tracked(workplace: Path, mlflow_database: Path) -> Path:
    """An empty folder with an empty MLflow database."""
    shutil.copy(mlflow_database, workplace / "mlflow.db")
    return workplace


@pytest.fixture
def place(tracked: Path, drawn: Place) -> Place:
    """A pipeline's folder with the drawn photos, prepared."""
    (tracked / "data").symlink_to(drawn.root / "data")
    return Place(tracked)


@pytest.fixture(scope="session")
def once_trained(once: Once, drawn: Place, mlflow_database: Path) -> Path:
    """A folder in which a tiny network was trained; read-only."""
    from training.fit.job import Job
    from training.fit.phases import fit
    from training.photos.manifest import read_manifest

    def make(folder: Path) -> None:
        shutil.copy(mlflow_database, folder / "mlflow.db")
        (folder / "data").symlink_to(drawn.root / "data")
        (folder / "configs").symlink_to(ROOT / "configs")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            place = Place(folder)
            fit(Job.plan(train_config(), read_manifest(place), place))

    return once("trained", make)


@pytest.fixture
def trained(workplace: Path, once_trained: Path) -> Place:
    """A private copy of a folder in which a tiny network was trained; the MLflow files are shared."""
    (workplace / "configs").unlink()
    shutil.copytree(once_trained, workplace, symlinks=True, dirs_exist_ok=True)
    return Place(workplace)


@pytest.fixture
def with_production(trained: Place) -> Place:
    """The same folder with photos of production in its manifest, instead of those of the test split."""
    from training.fit import checkpoint
    from training.photos.manifest import read_manifest

    shared = (trained.root / "data").resolve()
    (trained.root / "data").unlink()
    shutil.copytree(shared, trained.root / "data")
    table = pd.read_csv(trained.manifest, dtype=str, keep_default_na=False)
    table["split"] = table["split"].replace("test", PRODUCTION)
    table.to_csv(trained.manifest, index=False)
    run = replace(checkpoint.read_run(trained.run), data_sha256=read_manifest(trained).sha256)
    checkpoint.write_run(trained.run, run)
    return trained
