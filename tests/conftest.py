"""Fixtures that the tests of several packages share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from serving.http.app import create_app
from serving.runtime import memory
from serving.settings import Settings
from tests import tiny
from tests.once import Once

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("untimed")

Client = TestClient[Litestar]

# A script's background job starts with SIGINT ignored, and the tests' own processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _memory() -> Iterator[None]:
    """Gives freed memory back: a training keeps it until its process ends, but this process runs hundreds."""
    memory.bound()  # as a service does; else what its threads freed stays theirs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.__main__.allocator", SimpleNamespace(keep_freed=lambda: False))
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artefact with random weights."""
    return tiny.write_artifact(tmp_path_factory.mktemp("model") / "model.pt")


@contextmanager
def running(settings: Settings, until: str = "ready", **options: Any) -> Iterator[Client]:
    """The app in this process, once its state is `until`."""
    app = create_app(settings, **options)
    try:
        with TestClient(app) as client:
            deadline = time.monotonic() + 30
            while app.state.service.lifecycle.state != until:
                assert time.monotonic() < deadline, app.state.service.lifecycle.reason
                time.sleep(0.01)
            yield client
    finally:
        gc.unfreeze()  # a service freezes what it finds, so of hundreds in a process none would be collected


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Client]:
    """A ready service with low caps."""
    settings = Settings(
        model=str(model), workers=2, max_body_bytes=1_000_000, max_pixels=4_000_000, max_side=4000
    )
    with running(settings) as ready:
        yield ready


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that holds the project's configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "configs").symlink_to(tiny.ROOT / "configs")
    return tmp_path


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes costly things once for all processes of this session."""
    own = tmp_path_factory.getbasetemp()
    return Once(own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own)


@pytest.fixture(scope="session")
def mlflow_database(once: Once) -> Path:
    """An empty MLflow database, to be copied: creating one runs all migrations and takes seconds."""

    def make(folder: Path) -> None:
        # In a separate process: MLflow warns, leaves connections open, and is slow to import.
        code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
        uri = f"sqlite:///{folder}/mlflow.db"
        subprocess.run([sys.executable, "-c", code, uri], check=True, capture_output=True)

    return once("mlflow", make) / "mlflow.db"


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """The environment for our commands: this interpreter first on PATH, no settings from outside."""

    def make(**more: str) -> dict[str, str]:
        names = ("PORT", "HOST", "MODEL", "DATA", "MLFLOW_TRACKING_URI", "PYTHONPATH")
        clean = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("SERVING_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
        return clean | {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"} | more

    return make
