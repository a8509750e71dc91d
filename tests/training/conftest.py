"""What the tests of training share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiny import data_config
from training.photos.prepare import prepare
from training.photos.sources import fetch


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw photos and manifest of 40 drawn pictures of each class."""
    folder = tmp_path_factory.mktemp("drawn")
    before = Path.cwd()
    os.chdir(folder)
    try:
        fetch(data_config("--fetch.source", "sample", "--fetch.sample_per_class", "40").fetch)
        prepare(data_config().prepare)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(workplace: Path, drawn: Path) -> Path:
    """An empty folder with the drawn data."""
    (workplace / "data").symlink_to(drawn / "data")
    return workplace
