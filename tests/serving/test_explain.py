"""`/explain` as a route like the others: counted, logged, timed, and bounded."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from serving.http import explain
from serving.settings import Settings
from tests import tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene

PHOTO = encode(scene())


def explanations(client: Client, outcome: str) -> float:
    """How many requests ended so."""
    registry = client.app.state.service.metrics.registry
    value = registry.get_sample_value("classifier_explanations_total", {"outcome": outcome})
    assert value is not None, outcome
    return float(value)


def test_every_outcome_exists_from_the_start(model: Path):
    """The first burst of failures has a rate, and so an alert."""
    with running(Settings(model=str(model), workers=1)) as client:
        for outcome in ("ok", "overloaded", "deadline-exceeded", "not-ready", "internal", "broken-image"):
            assert explanations(client, outcome) == 0


def test_a_heat_map_is_counted_timed_and_logged(client: Client, capsys: pytest.CaptureFixture[str]):
    """The answer has the request's id and the stages, as one of `/predict`."""
    before = explanations(client, "ok")
    response = client.post("/explain", content=PHOTO, headers={"X-Request-ID": "abc"})
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "abc"
    assert [part.split(";")[0] for part in response.headers["server-timing"].split(", ")] == [
        "queue",
        "explain",
    ]
    assert explanations(client, "ok") == before + 1
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "explained" in text]
    assert "request_id=abc" in line
    assert "outcome=ok" in line


def test_a_refused_photo_is_counted_and_logged(client: Client, capsys: pytest.CaptureFixture[str]):
    """By the problem's code."""
    before = explanations(client, "broken-image")
    assert client.post("/explain", content=PHOTO[:300]).status_code == 422
    assert explanations(client, "broken-image") == before + 1
    assert "refused" in capsys.readouterr().out


def test_an_explanation_that_takes_too_long_is_a_504(model: Path, monkeypatch: pytest.MonkeyPatch):
    """The deadline counts for it too, and predictions are answered meanwhile."""
    go = threading.Event()

    def slow(*_: object) -> None:
        go.wait(20)
        raise RuntimeError

    monkeypatch.setattr(explain, "_explain", slow)
    with running(Settings(model=str(model), workers=1, deadline_seconds=0.3)) as client:
        began = time.monotonic()
        assert client.post("/explain", content=PHOTO).status_code == 504
        assert time.monotonic() - began < 5
        assert client.post("/predict", content=PHOTO).status_code == 200
        assert explanations(client, "deadline-exceeded") == 1
        go.set()


def test_a_label_outside_latin_1_is_explained(tmp_path: Path):
    """The header carries it in ASCII."""
    model = tiny.write_artifact(tmp_path / "model.pt", labels=("猫", "犬"))
    with running(Settings(model=str(model), workers=1, deadline_seconds=60)) as client:
        response = client.post("/explain", content=PHOTO)
        assert response.status_code == 200
        assert unquote(response.headers["x-prediction"]) in ("猫", "犬")
        assert Image.open(io.BytesIO(response.content)).format == "PNG"
