"""One service with the released model, for the programs of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.processes import Process, service
from tests.tiny import ROOT


@pytest.fixture(scope="session")
def served(environment: Callable[..., dict[str, str]]) -> Iterator[Process]:
    """A service with default settings."""
    with service(environment(MODEL=str(ROOT / "models/release/model.onnx"))) as process:
        process.wait_for("ready")
        yield process
        assert process.stop() == 0
