"""Several photos in one request: a list of answers, each photo with an answer or a problem of its own."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.testing import AsyncTestClient
from structlog.testing import capture_logs

from serving.contract.errors import Overloaded
from serving.http.app import create_app
from serving.http.sinks import Instances
from serving.observation import Observation
from serving.settings import Settings
from tests.conftest import Client, running
from tests.pictures import encode, scene
from tests.serving.test_app import problem, value

JPEG, PNG = encode(scene()), encode(scene(), "PNG")
MOST = 4


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Client]:
    """A service that takes few photos a request."""
    settings = Settings(model=str(model), workers=2, max_parts=MOST, max_body_bytes=1_000_000)
    with running(settings) as ready:
        yield ready


def form(*photos: bytes) -> list[tuple[str, Any]]:
    """Repeated fields `file`."""
    return [("file", (f"{number}.jpg", io.BytesIO(photo))) for number, photo in enumerate(photos)]


def instances(*photos: bytes) -> dict[str, Any]:
    """A JSON list of photos."""
    return {"instances": [{"b64": base64.b64encode(photo).decode()} for photo in photos]}


def test_repeated_files_are_answered_in_order_each_by_itself(client: Client):
    """A photo that is refused does not affect the others, nor the status."""
    alone = client.post("/predict", content=PNG).json()
    reply = client.post("/predict", files=form(JPEG, b"no photo", PNG), headers={"X-Request-ID": "all"})
    assert reply.status_code == 200
    first, second, third = reply.json()["predictions"]
    assert [first["request_id"], second["request_id"], third["request_id"]] == ["all.1", "all.2", "all.3"]
    assert third["probabilities"] == alone["probabilities"]
    assert (second["type"], second["status"]) == ("/problems/unsupported-image", 415)


def test_one_json_instance_is_a_list_too(client: Client):
    """Whoever sends a list reads a list, whatever its length."""
    alone = client.post("/predict", content=JPEG).json()
    for photos in ([JPEG], [JPEG, PNG]):
        reply = client.post("/predict?top=1", json=instances(*photos))
        assert reply.status_code == 200
        answers = reply.json()["predictions"]
        assert len(answers) == len(photos)
        assert answers[0]["probabilities"] == {alone["prediction"]: alone["probability"]}


def test_each_photo_is_counted_and_logged_once(client: Client):
    """As if each had come alone; a stage that a photo did not reach is not counted."""
    names = {
        "ok": {"name": "classifier_requests_total", "outcome": "ok"},
        "refused": {"name": "classifier_requests_total", "outcome": "unsupported-image"},
        "latency": {"name": "classifier_request_duration_seconds_count"},
        "infer": {"name": "classifier_stage_duration_seconds_count", "stage": "infer"},
    }
    before = {key: value(client, **labels) for key, labels in names.items()}
    with capture_logs() as lines:
        client.post("/predict", files=form(JPEG, b"no photo", PNG), headers={"X-Request-ID": "r"})
    moved = {key: value(client, **labels) - before[key] for key, labels in names.items()}
    assert moved == {"ok": 2, "refused": 1, "latency": 2, "infer": 2}
    logged = sorted((line["request_id"], line["outcome"], line["body_bytes"]) for line in lines)
    assert logged == [("r.1", "ok", len(JPEG)), ("r.2", "unsupported-image", 8), ("r.3", "ok", len(PNG))]


REFUSED = {
    "a form with too many parts": ({"files": form(*[JPEG] * (MOST + 1))}, 413, "too-many-photos"),
    "a list that is too long": ({"json": instances(*[JPEG] * (MOST + 1))}, 413, "too-many-photos"),
    "a list of a million empty objects": (
        {
            "content": b'{"instances":[' + b"{}," * 300_000 + b"{}]}",
            "headers": {"Content-Type": "application/json"},
        },
        413,
        "too-many-photos",
    ),
    "an empty list": ({"json": {"instances": []}}, 400, "missing-file"),
    "a list without its object": ({"json": instances(JPEG)["instances"]}, 400, "malformed-upload"),
    "a byte order mark": (
        {"content": b"\xef\xbb\xbf{}", "headers": {"Content-Type": "application/json"}},
        400,
        "malformed-upload",
    ),
    "an object without a list": ({"json": {"image": "x"}}, 400, "malformed-upload"),
    "base64 that is none": ({"json": {"instances": [{"b64": "***"}]}}, 400, "malformed-upload"),
    "no JSON": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed-upload"),
    "an empty body as JSON": (
        {"content": b"", "headers": {"Content-Type": "application/json"}},
        400,
        "missing-file",
    ),
    "nesting without end": (
        {"content": b'{"instances":' + b"[" * 200, "headers": {"Content-Type": "application/json"}},
        400,
        "malformed-upload",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_list_that_cannot_be_read_is_refused_as_a_whole(client: Client, case: str):
    """With the cause, and with the form that is expected."""
    request, status, code = REFUSED[case]
    reply = client.post("/predict", **request)
    assert reply.status_code == status
    assert problem(reply)["type"] == f"/problems/{code}"


def test_an_image_under_the_name_of_json_is_answered_as_an_image(client: Client):
    """The type that a client states is never trusted."""
    reply = client.post("/predict", content=JPEG, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200
    assert "prediction" in reply.json()


def test_a_heat_map_is_of_one_photo(client: Client):
    """Two are refused, rather than one of them ignored."""
    reply = client.post("/explain", files=form(JPEG, PNG))
    assert reply.status_code == 413
    assert problem(reply)["detail"] == "The request has 2 photos. Send them one by one."


def test_a_request_that_is_refused_as_a_whole_counts_for_each_photo(
    client: Client, monkeypatch: pytest.MonkeyPatch
):
    """Three photos that are not admitted are three in the metrics, and one line in the log."""

    def refuse(*_: object) -> None:
        raise Overloaded("The queue is full.", retry_after_seconds=2, reason="queue-full")

    monkeypatch.setattr(client.app.state.service.engine, "submit_all", refuse)
    before = value(client, "classifier_requests_total", outcome="overloaded")
    with capture_logs() as lines:
        reply = client.post("/predict", files=form(JPEG, JPEG, JPEG))
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "2"
    assert problem(reply)["type"] == "/problems/overloaded"
    assert value(client, "classifier_requests_total", outcome="overloaded") == before + 3
    assert [(line["outcome"], line["photos"]) for line in lines] == [("overloaded", 3)]


def test_photos_whose_time_is_up_are_refused_one_by_one(model: Path):
    """They were admitted: each has a problem, a count and a line."""
    settings = Settings(model=str(model), workers=1, deadline_seconds=1e-9)
    with running(settings) as client:
        with capture_logs() as lines:
            reply = client.post("/predict", files=form(JPEG, JPEG, JPEG))
        outcomes = client.get("/metrics", headers={"Accept": "application/json"}).json()["outcomes"]
    assert reply.status_code == 200
    assert {answer["status"] for answer in reply.json()["predictions"]} == {504}
    assert outcomes["deadline-exceeded"] == 3
    assert len(lines) == 3


def test_megabytes_are_decoded_without_a_copy_of_the_body():
    """Nobody else is answered meanwhile, and the budget counts each body once."""
    photo, sink = bytes(3_000_000), Instances(MOST)
    sink.feed(json.dumps(instances(photo)).encode())
    tracemalloc.start()
    try:
        assert sink.finish().encoded == [photo]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.1 * len(photo)


class Leaving:
    """A caller that sends photos, and closes the connection just when its last photo has been computed."""

    def __init__(self, *photos: bytes) -> None:
        request = httpx.Request("POST", "http://x/predict", files=form(*photos))
        self._body = request.read()
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        self.scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict"}
        self.scope |= {"query_string": b"", "headers": headers, "state": {}}
        self._missing, self._left = len(photos), asyncio.Event()

    def observe(self, _: Observation) -> None:
        """A photo has been computed."""
        self._missing -= 1
        if not self._missing:
            self._left.set()

    async def receive(self) -> dict[str, Any]:
        """The body, then the end of the connection."""
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, _: dict[str, Any]) -> None:
        """Nobody reads the answer."""


def test_who_leaves_at_the_last_answer_is_logged_for_no_photo_more(model: Path):
    """Each photo has been counted and logged already, and the line of the request says so."""

    async def play() -> tuple[list[Any], dict[str, int]]:
        caller = Leaving(JPEG, PNG)
        app = create_app(Settings(model=str(model), workers=1), observers=[caller])
        async with AsyncTestClient(app) as client:
            while app.state.service.lifecycle.state != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            with capture_logs() as lines:
                await app(caller.scope, caller.receive, caller.send)
            metrics = await client.get("/metrics", headers={"Accept": "application/json"})
            return lines, metrics.json()["outcomes"]

    lines, outcomes = asyncio.run(play())
    assert [(line["outcome"], line.get("photos", 1)) for line in lines] == [
        *(("ok", 1), ("ok", 1)),
        ("disconnected", 0),
    ]
    assert (outcomes["ok"], outcomes["disconnected"]) == (2, 0)


def test_ten_thousand_values_cost_no_more_than_their_bytes():
    """The limit holds before anything is decoded."""
    from serving.http import documents

    body = json.dumps({"instances": [{}] * 10_000}).encode()
    with pytest.raises(documents.TooManyValues):
        documents.instances(body, 16)
