"""Every observer receives each computed photo, and none affects an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from serving.contract.answer import Answer, Refusal
from serving.contract.artifact import Artifact
from serving.contract.errors import BrokenImage
from serving.contract.preprocess import DecodedImage
from serving.contract.reference import make_reference
from serving.observation import Observation
from serving.settings import Settings
from serving.telemetry.drift import DriftMonitor
from tests import tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene

JPEG = encode(scene())


class Recorder:
    """An observer that keeps what it receives."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def observe(self, observation: Observation) -> None:
        self.seen.append(observation)


class Broken:
    """An observer that always fails."""

    def observe(self, observation: Observation) -> None:
        raise RuntimeError(f"cannot record {observation.request_id}")


@pytest.fixture
def recorder() -> Recorder:
    """The last of the observers."""
    return Recorder()


@pytest.fixture
def observed(model: Path, recorder: Recorder) -> Iterator[Client]:
    """A service with an observer that fails before one that records."""
    with running(Settings(model=str(model), workers=1), observers=[Broken(), recorder]) as client:
        yield client


def test_an_observer_receives_each_computed_photo(observed: Client, recorder: Recorder):
    """With the bytes, the pixels, the answer, the model and the times of that very request."""
    answer = observed.post("/predict", content=JPEG, headers={"X-Request-ID": "mine"}).json()
    (observation,) = recorder.seen
    assert (observation.request_id, observation.encoded) == ("mine", JPEG)
    assert isinstance(observation.decoded, DecodedImage)
    assert observation.decoded.pixels.shape == (3, tiny.SIDE, tiny.SIDE)
    assert isinstance(observation.answer, Answer)
    assert observation.answer.probabilities == answer["probabilities"]
    assert observation.artifact is observed.app.state.service.models.handler.artifact
    assert list(observation.seconds) == ["queue", "decode", "infer"]
    assert observation.quantities["confidence"] == answer["probability"]


def test_a_refused_photo_is_observed_too(observed: Client, recorder: Recorder):
    """With the reason; a request that never reached a worker is not."""
    assert observed.post("/predict", content=JPEG[:-300]).status_code == 422
    assert observed.post("/predict", content=b"").status_code == 400
    (observation,) = recorder.seen
    assert isinstance(observation.answer, Refusal)
    assert isinstance(observation.decoded, BrokenImage)
    assert observation.quantities == {}


def test_an_observer_that_fails_changes_no_answer_and_stops_no_other(observed: Client, recorder: Recorder):
    """The error is logged with the request's id, and every other observer has seen the photo."""
    with structlog.testing.capture_logs() as lines:
        response = observed.post("/predict", content=JPEG, headers={"X-Request-ID": "mine"})
    assert response.status_code == 200
    fault, predicted = lines
    assert (fault["event"], fault["observer"], fault["request_id"]) == (
        "an observer failed",
        "Broken",
        "mine",
    )
    assert fault["exc_info"]
    assert predicted["event"] == "predicted"
    assert len(recorder.seen) == 1
    registry = observed.app.state.service.metrics.registry
    assert registry.get_sample_value("classifier_prediction_probability_count") == 1


def test_one_list_names_all_observers(model: Path, tmp_path: Path, recorder: Recorder):
    """Metrics and drift always, feedback, review and shadow where they are set, then what was passed in."""
    stores = {"feedback": str(tmp_path / "f.db"), "review": str(tmp_path / "r.db")}
    options = stores | {"api_key": "secret", "shadow_model": str(model)}
    with running(Settings(model=str(model), **options), observers=[recorder]) as client:
        service = client.app.state.service
        assert service.observers == [
            *(service.metrics, service.drift, service.feedback, service.review, service.shadow, recorder)
        ]


def test_the_drift_window_counts_only_what_the_current_model_answered():
    """A late answer of the model before a reload is left out."""
    photo = {"brightness": 0.5, "confidence": 0.9}
    card = msgspec.structs.replace(tiny.card(), reference=make_reference([photo] * 10, 2))
    before, now = (Artifact(card, [], sha256) for sha256 in ("a", "b"))
    monitor = DriftMonitor(CollectorRegistry(), 10)
    monitor.serve(before, before.card.reference)
    monitor.serve(now, now.card.reference)
    pixels = np.zeros((3, 64, 64), np.uint8)
    answer = Answer(
        "cat", 0.9, {"cat": 0.9, "dog": 0.1}, uncertain=False, unfamiliar=None, feature_distance=None
    )
    late = Observation("a", JPEG, DecodedImage(pixels, "JPEG", 64, 64), answer, before, {}, photo)
    monitor.observe(late)
    assert monitor.report().photos == 0
    monitor.observe(dataclasses.replace(late, artifact=now))
    assert monitor.report().photos == 1
