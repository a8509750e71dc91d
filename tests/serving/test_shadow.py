"""A second artefact is compared in the background, and never delays an answer."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from serving.contract.preprocess import preprocess
from serving.observation import Observation
from serving.observers.shadow import Shadow
from serving.runtime.context import LocalContext
from serving.runtime.handler import ImageClassifierHandler
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests import tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene

OUTCOMES = ("agreed", "disagreed", "dropped", "failed")


def counts(client: Client) -> dict[str, float]:
    """Photos by what the shadow did with them."""
    registry = client.app.state.service.metrics.registry
    return {o: registry.get_sample_value("classifier_shadow_total", {"outcome": o}) for o in OUTCOMES}


def ask(client: Client, photos: int) -> None:
    """Send photos, one after the other."""
    for number in range(photos):
        assert client.post("/predict", content=encode(scene(100 + number))).status_code == 200


def wait_until_loaded(client: Client) -> None:
    """Wait until the second artefact is loaded."""
    deadline = time.monotonic() + 30
    while not client.app.state.service.shadow.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(client: Client, total: int) -> dict[str, float]:
    """The counts, once they reach this total."""
    deadline = time.monotonic() + 30
    while sum(counts(client).values()) < total:
        assert time.monotonic() < deadline, counts(client)
        time.sleep(0.01)
    return counts(client)


def test_the_same_artefact_agrees_with_itself(model: Path):
    """Every photo is compared or dropped, none disagrees, and the difference is zero."""
    with running(Settings(model=str(model), workers=1, shadow_model=str(model), shadow_share=1.0)) as client:
        wait_until_loaded(client)
        ask(client, 20)
        found = wait_for(client, 20)
        assert found["agreed"] + found["dropped"] == 20
        assert found["agreed"] > 0
        registry = client.app.state.service.metrics.registry
        assert registry.get_sample_value("classifier_shadow_difference_ratio_sum") == 0
        assert "classifier_shadow_model_info" in client.get("/metrics").text


def test_a_share_of_the_photos_is_taken(model: Path):
    """At 0, none of them is."""
    with running(Settings(model=str(model), workers=1, shadow_model=str(model), shadow_share=0.0)) as client:
        wait_until_loaded(client)
        ask(client, 5)
        time.sleep(0.2)
        assert sum(counts(client).values()) == 0


@pytest.mark.parametrize("case", ["missing", "other classes"])
def test_a_bad_shadow_leaves_the_service_as_it_is(case: str, model: Path, tmp_path: Path):
    """The failure is counted, and the service answers."""
    path = tmp_path / "none.pt"
    if case == "other classes":
        tiny.write_artifact(path, labels=("bird", "fish"))
    with running(Settings(model=str(model), workers=1, shadow_model=str(path))) as client:
        assert wait_for(client, 1)["failed"] == 1
        ask(client, 1)
        assert client.get("/health").status_code == 200


def test_photos_that_do_not_fit_the_queue_are_dropped(model: Path):
    """Four wait while the model stalls; the fifth, and any while requests wait, is dropped at once."""
    metrics = Metrics(CollectorRegistry())
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(model))
    entered, gate = threading.Event(), threading.Event()
    handle = handler.handle

    def slow(data: list[dict[str, bytes]]) -> list[object]:
        entered.set()
        gate.wait(30)
        return handle(data)

    handler.handle = slow
    busy = False
    shadow = Shadow(metrics, 1.0, lambda: busy)
    shadow.start(handler)
    body = encode(scene())
    answer = handle([{"body": body}])[0]
    observation = Observation("a", body, preprocess(body, tiny.SIDE), answer, handler.artifact, {}, {})

    def dropped() -> float:
        return metrics.registry.get_sample_value("classifier_shadow_total", {"outcome": "dropped"})

    shadow.observe(observation)
    assert entered.wait(30)
    for _ in range(4):
        shadow.observe(observation)
    assert dropped() == 0
    began = time.monotonic()
    shadow.observe(observation)
    busy = True
    shadow.observe(observation)
    assert dropped() == 2
    assert time.monotonic() - began < 1
    gate.set()
    shadow.close()
    assert not shadow._thread.is_alive()


def test_a_photo_on_which_the_models_disagree_is_handed_on(model: Path):
    """With all that is known of it; one on which they agree is not."""
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(model))
    body = encode(scene())
    answer = handler.handle([{"body": body}])[0]
    same = Observation("same", body, preprocess(body, tiny.SIDE), answer, handler.artifact, {}, {})
    (other,) = {"cat", "dog"} - {answer.prediction}
    contradicted = dataclasses.replace(
        same, request_id="other", answer=msgspec.structs.replace(answer, prediction=other)
    )
    received: list[Observation] = []
    arrived = threading.Event()
    shadow = Shadow(
        Metrics(CollectorRegistry()), 1.0, lambda: False, lambda seen: (received.append(seen), arrived.set())
    )
    shadow.start(handler)
    shadow.observe(same)
    shadow.observe(contradicted)
    assert arrived.wait(30)
    shadow.close()
    assert received == [contradicted]
