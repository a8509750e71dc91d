"""Every answer of every route is counted once, has an id, and every series exists from the start."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from serving.engine.workers import Engine
from serving.http.kinds import KINDS
from serving.observers.feedback import Feedback
from serving.settings import Settings
from serving.telemetry import lag
from serving.telemetry.metrics import DROP_REASONS, Metrics
from tests.conftest import Client, running
from tests.pictures import encode, scene
from tests.processes import service

JPEG = encode(scene())
KEY = {"X-API-Key": "secret"}
NAMES = [
    "%00",
    "a" * 5000,
    "..%2f..%2fetc%2fpasswd",
    "%ff%fe",
    "%ed%a0%80",
    "..",
    "a/" * 2000,
    "%0a",
    "swagger",
]


@pytest.fixture
def fresh(model: Path, tmp_path: Path) -> Iterator[Client]:
    """A service that has answered nothing yet."""
    settings = Settings(model=str(model), workers=1, api_key="secret", feedback=str(tmp_path / "f.db"))
    with running(settings) as client:
        yield client


def value(client: Client, name: str, **labels: str) -> float | None:
    """The value of a series; None if there is none."""
    found = client.app.state.service.metrics.registry.get_sample_value(name, labels)
    return None if found is None else float(found)


def answers(client: Client, route: str, method: str, status: int) -> float | None:
    """How many answers of this kind were counted."""
    return value(client, "classifier_http_responses_total", route=route, method=method, status=str(status))


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/health", "/health", 200),
        ("GET", "/web/app.js", "/web/{file_path}", 200),
        ("GET", "/web/none.js", "/web/{file_path}", 404),
        ("GET", "/predict", "/predict", 405),
        ("BREW", "/predict", "/predict", 405),
        ("GET", "/none/of/these", "other", 404),
        ("GET", "/metrics", "/metrics", 401),
        ("POST", "/", "/", 401),
        ("POST", "/feedback", "/feedback", 401),
    ],
)
def test_each_answer_is_counted_and_has_an_id(fresh: Client, method: str, path: str, route: str, status: int):
    """Under the route as it is declared; a method or path that is none becomes `other`."""
    reply = fresh.request(method, path, headers={"X-Request-ID": "mine"})
    assert (reply.status_code, reply.headers["x-request-id"]) == (status, "mine")
    known = "other" if method == "BREW" else method
    assert answers(fresh, route, known, status) == 1
    assert fresh.request(method, path).headers["x-request-id"] not in ("", "mine")
    assert answers(fresh, route, known, status) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["/web/", "/web/swagger/", "/", "/schema/", "/predict/"])
def test_no_name_is_an_internal_error(client: Client, folder: str, name: str):
    """What no file can be called is not there, whoever asks, and by whatever method."""
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "BREW"):
        assert client.request(method, folder + name).status_code < 500


def test_a_stranger_cannot_make_series(client: Client):
    """A thousand paths and methods are one series each way."""
    registry = client.app.state.service.metrics.registry

    def series() -> int:
        return sum(len(family.samples) for family in registry.collect())

    client.request("BREW0", "/none0")
    before = series()
    for number in range(200):
        client.request(f"BREW{number}", f"/none{number}")
    assert series() == before


def test_an_internal_error_on_any_route_is_logged_with_its_trace(
    fresh: Client, monkeypatch: pytest.MonkeyPatch
):
    """And counted; the caller gets the id to ask for."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("why")

    monkeypatch.setattr(Engine, "compute", broken)
    monkeypatch.setattr(Feedback, "receive", broken)
    for path, sent in (
        ("/explain", {"content": JPEG}),
        ("/feedback", {"json": {"request_id": "a", "label": "cat"}}),
    ):
        with structlog.testing.capture_logs() as lines:
            reply = fresh.post(path, headers=KEY | {"X-Request-ID": "mine"}, **sent)
        assert (reply.status_code, reply.json()["request_id"]) == (500, "mine")
        assert "why" not in reply.text
        (line,) = [line for line in lines if line["event"] == "failed to answer"]
        assert (line["route"], line["request_id"], line["status"]) == (path, "mine", 500)
        assert repr(line["exc_info"]) == "RuntimeError('why')"
        assert answers(fresh, path, "POST", 500) == 1


def test_every_series_exists_from_the_start(fresh: Client):
    """Or its first increase has no rate: outcomes of /predict, reasons, and 500s of every route."""
    outcomes = {
        "ok",
        "internal",
        "overloaded",
        "deadline-exceeded",
        "not-ready",
        "unauthorized",
        "broken-image",
    }
    for outcome in outcomes | {"disconnected", "empty", "upload-timeout", "image-too-large"}:
        assert value(fresh, "classifier_requests_total", outcome=outcome) == 0
    assert value(fresh, "classifier_requests_total", outcome="unknown-label") is None
    for reason in DROP_REASONS:
        assert value(fresh, "classifier_feedback_dropped_answers_total", reason=reason) == 0
    assert value(fresh, "classifier_log_lines_dropped_total") == 0
    for route, method in (
        ("/predict", "POST"),
        ("/feedback", "POST"),
        ("/web/{file_path}", "GET"),
        ("/", "POST"),
    ):
        assert answers(fresh, route, method, 500) == 0


def test_every_outcome_of_predict_is_a_known_one(client: Client):
    """What a request can end in was created; no request makes another series."""
    registry = client.app.state.service.metrics.registry

    def outcomes() -> set[str]:
        (family,) = [f for f in registry.collect() if f.name == "classifier_requests"]
        return {sample.labels["outcome"] for sample in family.samples}

    before = outcomes()
    assert before <= {"ok", *KINDS}
    for content in (JPEG, b"", b"no photo", JPEG[:-300], bytes(2_000_000), encode(scene(5000, 10))):
        client.post("/predict", content=content)
    assert outcomes() == before


def test_a_refused_photo_counts_only_in_the_stages_that_it_went_through(fresh: Client):
    """It was queued and its decoding tried; nothing was inferred, and its time is no answer's."""
    reply = fresh.post("/predict", content=JPEG[:-300], headers=KEY)
    assert reply.status_code == 422
    assert "infer" not in reply.headers["server-timing"]
    counts = {
        stage: value(fresh, "classifier_stage_duration_seconds_count", stage=stage)
        for stage in ("queue", "decode", "infer")
    }
    assert counts == {"queue": 1, "decode": 1, "infer": 0}
    assert value(fresh, "classifier_request_duration_seconds_count") == 0
    fresh.post("/predict", content=JPEG, headers=KEY)
    assert value(fresh, "classifier_request_duration_seconds_count") == 1


def test_a_line_of_the_log_says_what_was_asked_and_what_answered(fresh: Client):
    """Route, status, sizes, format and the model's version, of answers and of refusals."""
    with structlog.testing.capture_logs() as lines:
        fresh.post("/predict", content=JPEG, headers=KEY)
        fresh.post("/predict", content=JPEG[:-300], headers=KEY)
        fresh.post("/predict", content=JPEG)
    predicted, refused, stranger = lines
    usual = {
        "route": "/predict",
        "status": 200,
        "outcome": "ok",
        "body_bytes": len(JPEG),
        "model_version": "1",
    }
    assert usual.items() <= predicted.items()
    assert {"format": "JPEG", "width": 120, "height": 80}.items() <= predicted.items()
    usual = {"route": "/predict", "status": 422, "outcome": "broken-image", "body_bytes": len(JPEG) - 300}
    assert usual.items() <= refused.items()
    assert refused["model_version"] == "1"
    assert {"route": "/predict", "status": 401, "outcome": "unauthorized"}.items() <= stranger.items()
    assert "body_bytes" not in stranger


def test_the_lag_of_the_event_loop_is_the_longest_of_the_last_minute():
    """A callback that holds the loop up is seen at the next scrape, and still at later ones."""
    metrics = Metrics(CollectorRegistry())

    async def hold() -> None:
        watching = asyncio.create_task(lag.watch(metrics))
        await asyncio.sleep(0)
        ends = asyncio.get_running_loop().time() + 0.6
        while asyncio.get_running_loop().time() < ends:
            pass
        await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(hold())
    assert 0.2 < metrics.registry.get_sample_value("classifier_event_loop_lag_seconds") < 5


def test_a_scrape_of_the_process_holds_no_creation_times(
    model: Path, environment: Callable[..., dict[str, str]]
):
    """They were a fifth of the text, and nothing asks for them; both formats are what Prometheus reads."""
    with service(environment(MODEL=str(model))) as process:
        process.wait_for("ready")
        httpx.post(f"{process.url}/predict", content=JPEG)
        plain = httpx.get(f"{process.url}/metrics").text
        open_metrics = httpx.get(
            f"{process.url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        ).text
        assert process.stop() == 0
    assert "_created" not in plain + open_metrics
    assert open_metrics.endswith("# EOF\n")
    names = {family.name for family in text_string_to_metric_families(plain)}
    assert {"classifier_event_loop_lag_seconds", "classifier_http_responses"} <= names
    assert re.search(r'responses_total\{method="POST",route="/predict",status="200"\} 1.0', plain)
