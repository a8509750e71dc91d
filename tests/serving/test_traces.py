"""Each request is a span with a child for each stage, and log and metrics have its ids."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from serving.engine.job import FOLLOWED, Job
from serving.http.request import trace_parent
from serving.http.traces import Traced
from serving.runtime.handler import ImageClassifierHandler
from serving.settings import Settings
from serving.telemetry.otlp import Tracing
from tests.conftest import Client, running
from tests.pictures import encode, scene

JPEG = encode(scene())
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Keeps the spans."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    """Hands each span to the exporter at once."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


@pytest.fixture
def client(model: Path, tracing: Tracing) -> Iterator[Client]:
    """A service that is traced."""
    settings = Settings(model=str(model), workers=1, max_body_bytes=200_000, deadline_seconds=5)
    with running(settings, tracing=tracing) as ready:
        yield ready


def of(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans of one request: the request's as `request`, its children by their names."""
    spans = exporter.get_finished_spans()
    names = ["request" if span.kind is SpanKind.SERVER else span.name for span in spans]
    assert len(set(names)) == len(names), names
    return dict(zip(names, spans, strict=True))


def test_a_prediction_has_a_span_with_four_stages(client: Client, exporter: InMemorySpanExporter):
    """Each begins where the one before ended, or later, and all lie within the request's."""
    answer = client.post("/predict", content=JPEG, headers={"X-Request-ID": "mine"}).json()
    spans = of(exporter)
    assert list(spans) == ["upload", "queue", "decode", "infer", "request"]
    *stages, request = spans.values()
    for stage in stages:
        assert stage.parent.span_id == request.context.span_id
        assert stage.context.trace_id == request.context.trace_id
    times = [request.start_time, *(t for s in stages for t in (s.start_time, s.end_time)), request.end_time]
    assert times == sorted(times)
    assert request.name == "POST /predict"
    assert request.parent is None
    assert request.status.status_code is StatusCode.UNSET
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "http.request.body.size": len(JPEG),
        "network.protocol.version": "1.1",
        "url.path": "/predict",
        "url.scheme": "http",
        "server.address": "testserver.local",
        "classifier.request_id": "mine",
        "classifier.outcome": "ok",
        "classifier.prediction": answer["prediction"],
        "classifier.uncertain": answer["uncertain"],
        "classifier.model_version": answer["model"]["version"],
    }


def test_the_stages_last_as_long_as_the_answer_says(client: Client, exporter: InMemorySpanExporter):
    """Server-Timing and the spans have the same figures."""
    timing = client.post("/predict", content=JPEG).headers["server-timing"]
    spans = of(exporter)
    for entry in timing.split(", "):
        stage, milliseconds = entry.split(";dur=")
        seconds = (spans[stage].end_time - spans[stage].start_time) / 1e9
        assert 1000 * seconds == pytest.approx(float(milliseconds), abs=0.01)


def test_the_callers_trace_is_continued(client: Client, exporter: InMemorySpanExporter):
    """With its span as the parent, and its tracestate."""
    headers = [
        ("traceparent", f"00-{TRACE}-{CALLER}-01"),
        ("tracestate", "vendor=a:1"),
        ("tracestate", "other=b"),
    ]
    client.post("/predict", content=JPEG, headers=headers)
    for span in exporter.get_finished_spans():
        assert format_trace_id(span.context.trace_id) == TRACE
        assert span.context.trace_state.to_header() == "vendor=a:1,other=b"
    assert format_span_id(of(exporter)["request"].parent.span_id) == CALLER


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", f"00-{TRACE}-{CALLER}-01-more")],
        [("traceparent", f"00-{TRACE}-{CALLER}-01-")],
        [("traceparent", f"ff-{TRACE}-{CALLER}-01")],
        [("traceparent", f"00-{TRACE.upper()}-{CALLER}-01")],
        [("traceparent", f"00-{'0' * 32}-{CALLER}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"cc-{TRACE}-{CALLER}-01.what")],
        [("traceparent", "\xe9" * 55)],
        [("traceparent", "0" * 30_000)],
        [("traceparent", "")],
    ],
)
def test_an_invalid_trace_context_begins_a_new_trace(
    headers: list[tuple[str, str]], client: Client, exporter: InMemorySpanExporter
):
    """As the recommendation demands, and nobody's log is filled with it."""
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    with structlog.testing.capture_logs() as lines:
        assert client.post("/predict", content=JPEG, headers=encoded).status_code == 200
    assert len(lines) == 1
    request = of(exporter)["request"]
    assert request.parent is None
    assert format_trace_id(request.context.trace_id) == lines[0]["trace_id"] != TRACE


def test_a_trace_context_that_is_sent_twice_is_invalid():
    """Nobody knows which one counts; the client of the other tests would join them."""
    header = (b"traceparent", f"00-{TRACE}-{CALLER}-01".encode())
    assert trace_parent([header]) == (TRACE, CALLER, "01")
    assert trace_parent([header, header]) is None


@pytest.mark.parametrize("version", ["01", "cc"])
def test_a_later_version_may_have_more_fields(version: str, client: Client, exporter: InMemorySpanExporter):
    """The part that is known is read."""
    for rest in ("", "-what-comes"):
        client.post("/predict", content=JPEG, headers={"traceparent": f"{version}-{TRACE}-{CALLER}-01{rest}"})
    assert {format_trace_id(span.context.trace_id) for span in exporter.get_finished_spans()} == {TRACE}


@pytest.mark.parametrize(
    "state", ["a=1,a=2", "=", "\xe9=\xe9", ",".join(f"k{n}={'v' * 200}" for n in range(3)), "a" * 20_000]
)
def test_an_invalid_or_long_tracestate_is_left_out(
    state: str, client: Client, exporter: InMemorySpanExporter
):
    """The trace is continued without it."""
    headers = {b"traceparent": f"00-{TRACE}-{CALLER}-01".encode(), b"tracestate": state.encode("latin-1")}
    assert client.post("/predict", content=JPEG, headers=headers).status_code == 200
    request = of(exporter)["request"]
    assert format_trace_id(request.context.trace_id) == TRACE
    assert not request.context.trace_state


def test_log_and_metrics_have_the_ids_of_the_span(client: Client, exporter: InMemorySpanExporter):
    """From a bucket or a line of log to the trace; the Prometheus text has no exemplars, by its format."""
    with structlog.testing.capture_logs() as lines:
        client.post("/predict", content=JPEG, headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
        client.post("/predict", content=b"no photo")
    first, second = (span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER)
    assert lines[0]["parent_span_id"] == CALLER
    assert "parent_span_id" not in lines[1]
    for line, span in zip(lines, (first, second), strict=True):
        assert line["trace_id"] == format_trace_id(span.context.trace_id)
        assert line["span_id"] == format_span_id(span.context.span_id)
    exemplars = {
        (sample.name, sample.labels.get("outcome")): sample.exemplar.labels
        for family in text_string_to_metric_families(client.get("/metrics", headers=OPEN_METRICS).text)
        for sample in family.samples
        if sample.exemplar
    }
    ids = [{key: line[key] for key in ("trace_id", "span_id")} for line in lines]
    assert exemplars == {
        ("classifier_request_duration_seconds_bucket", None): ids[0],
        ("classifier_requests_total", "unsupported-image"): ids[1],
    }
    assert TRACE not in client.get("/metrics").text


def test_a_caller_that_does_not_sample_is_obeyed(client: Client, exporter: InMemorySpanExporter):
    """No span and no exemplar; the log has the ids all the same."""
    with structlog.testing.capture_logs() as lines:
        client.post("/predict", content=JPEG, headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    assert not exporter.get_finished_spans()
    assert (lines[0]["trace_id"], lines[0]["parent_span_id"]) == (TRACE, CALLER)
    assert TRACE not in client.get("/metrics", headers=OPEN_METRICS).text


@pytest.mark.parametrize(
    ("request_", "status", "outcome", "stages"),
    [
        ({"content": b"no photo"}, 415, "unsupported-image", {"upload", "queue", "decode"}),
        ({"content": JPEG[:-9]}, 422, "broken-image", {"upload", "queue", "decode"}),
        ({"content": b""}, 400, "missing-file", set()),
        ({"content": b"x" * 300_000}, 413, "body-too-large", set()),
        ({"content": iter([b"x" * 90_000] * 3)}, 413, "body-too-large", {"upload"}),
        ({"files": {"wrong": JPEG}}, 400, "missing-file", {"upload"}),
    ],
)
def test_a_refused_request_has_the_stages_that_it_reached(
    request_: dict[str, Any],
    status: int,
    outcome: str,
    stages: set[str],
    client: Client,
    exporter: InMemorySpanExporter,
):
    """The fault is the caller's: the span is no error."""
    assert client.post("/predict", **request_).status_code == status
    spans = of(exporter)
    request = spans.pop("request")
    assert spans.keys() == stages
    assert request.attributes["http.response.status_code"] == status
    assert request.attributes["classifier.outcome"] == outcome
    assert "error.type" not in request.attributes
    assert request.status.status_code is StatusCode.UNSET


def test_a_request_that_is_late_shows_where_it_was(
    model: Path, tracing: Tracing, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    """A 504 is an error of the service, and the stage that a worker was in ends with the request."""
    infer, release = ImageClassifierHandler.inference, threading.Event()
    with running(
        Settings(model=str(model), workers=1, deadline_seconds=0.3, queue_seconds=60), tracing=tracing
    ) as client:

        def wait(handler: ImageClassifierHandler, batch: Any) -> Any:
            release.wait(20)
            return infer(handler, batch)

        with monkeypatch.context() as patch:
            patch.setattr(ImageClassifierHandler, "inference", wait)
            assert client.post("/predict", content=JPEG).status_code == 504
            release.set()
    spans = of(exporter)
    request = spans.pop("request")
    assert spans.keys() == {"upload", "queue", "decode", "infer"}
    assert spans["infer"].end_time == request.end_time
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "deadline-exceeded"


def test_an_unforeseen_error_is_one_of_the_span(
    client: Client, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    """By its code alone: its text may hold anything."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(ImageClassifierHandler, "inference", broken)
    assert client.post("/predict", content=JPEG).status_code == 500
    request = of(exporter)["request"]
    assert request.attributes["error.type"] == "internal"
    assert "hunter2" not in request.to_json()


def test_an_explanation_is_traced(client: Client, exporter: InMemorySpanExporter):
    """Its last stage has the name of the route."""
    answer = client.post("/explain", content=JPEG)
    spans = of(exporter)
    assert list(spans) == ["upload", "queue", "explain", "request"]
    assert spans["request"].name == "POST /explain"
    assert spans["request"].attributes["http.response.status_code"] == answer.status_code


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/", "GET /"),
        ("GET", "/problems/empty", "GET /problems/{code}"),
        ("GET", "/predict", "GET /predict"),
        ("POST", "/feedback", "POST /feedback"),
        ("GET", "/wp-admin/x", "GET"),
    ],
)
def test_every_other_route_has_a_span_of_its_own(
    method: str, path: str, name: str, client: Client, exporter: InMemorySpanExporter
):
    """Named after the route as it is declared; an unknown path has none."""
    client.request(method, path)
    (span,) = exporter.get_finished_spans()
    assert span.name == name
    assert span.attributes["url.path"] == path


def test_health_checks_and_scrapes_have_no_span(client: Client, exporter: InMemorySpanExporter):
    """They would be most of the spans."""
    paths = ("/health", "/health/", "/health/live", "/health/ready", "/metrics")
    inference = ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready")
    for path in (*paths, *inference):
        assert client.get(path).status_code == 200
    assert not exporter.get_finished_spans()


def test_no_secret_is_in_a_span(model: Path, tracing: Tracing, exporter: InMemorySpanExporter):
    """Neither a key, nor a query, nor what is in the photo or in its name."""
    with running(Settings(model=str(model), workers=1, api_key="s3cret"), tracing=tracing) as client:
        headers = {"X-API-Key": "s3cret", "Cookie": "s3cret", "Authorization": "Bearer s3cret"}
        client.post("/predict?token=s3cret", files={"file": ("s3cret.jpg", JPEG)}, headers=headers)
        client.get("/problems/empty?s3cret", headers=headers)
    spans = exporter.get_finished_spans()
    assert len(spans) >= 2
    assert not any("s3cret" in span.to_json() for span in spans)


@pytest.mark.parametrize("host", ["[::1", "a:b:c", "", "x" * 5000, "h:99999999"])
def test_any_host_is_traced(host: str, client: Client, exporter: InMemorySpanExporter):
    """What a caller writes there breaks nothing."""
    assert client.post("/predict", content=JPEG, headers={"Host": host}).status_code == 200
    assert of(exporter)["request"].attributes["http.response.status_code"] == 200


def test_photos_of_one_request_each_have_their_stages(client: Client, exporter: InMemorySpanExporter):
    """These carry the prediction, or the refusal, of their photo; the request's span carries neither."""
    data = [base64.b64encode(photo).decode() for photo in (JPEG, b"no photo")]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    upload, *stages, request = exporter.get_finished_spans()
    assert request.attributes["http.response.status_code"] == answer.status_code
    found = [(span.name, span.attributes["classifier.outcome"]) for span in stages]
    first = [(stage, "ok") for stage in ("queue", "decode", "infer")]
    assert found == first + [(stage, "unsupported-image") for stage in ("queue", "decode")]
    assert "classifier.prediction" in stages[0].attributes
    assert request.name == "POST /v2/models/{name}/infer"
    assert not request.attributes.keys() & {"classifier.prediction", "classifier.outcome"}
    assert request.attributes["http.request.body.size"] > 0
    assert upload.name == "upload"


def test_a_refused_photo_of_a_batch_is_not_inferred(
    model: Path, tracing: Tracing, exporter: InMemorySpanExporter
):
    """Its decode ends where the inference of the others begins."""
    settings = Settings(model=str(model), workers=1, max_batch=2, max_delay_ms=1000)
    data = [base64.b64encode(photo).decode() for photo in (b"no photo", JPEG)]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    with running(settings, tracing=tracing) as client:
        client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    _, _, refused, _, decode, infer, _ = exporter.get_finished_spans()
    assert refused.name == decode.name == "decode"
    assert refused.end_time == decode.end_time == infer.start_time


BARE = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "http_version": "1.1"}


async def nothing(*_: Any) -> Any:
    """What an application can neither receive nor send."""


def test_a_request_without_an_answer_is_an_error(tracing: Tracing, exporter: InMemorySpanExporter):
    """As those that a stop cuts."""

    async def cut(*_: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Traced(cut, tracing.tracer, lambda: 1.0, [])({"headers": []} | BARE, nothing, nothing))
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "CancelledError"
    assert span.status.status_code is StatusCode.ERROR


def test_a_connection_keeps_no_photo_of_an_earlier_request(tracing: Tracing):
    """Its timers, and the next request that was sent ahead, run in a copy of the request's context."""
    kept: list[Any] = []

    async def app(*_: Any) -> None:
        jobs = FOLLOWED.get()
        kept.append(jobs)
        if jobs is not None:
            jobs.append(Job(b"a photo", 2.0, 1.0, asyncio.get_running_loop().create_future()))
            if len(kept) == 1:
                unsampled = [(b"traceparent", f"00-{TRACE}-{CALLER}-00".encode())]
                await traced({"headers": unsampled} | BARE, nothing, nothing)

    traced = Traced(app, tracing.tracer, lambda: 1.0, [])
    asyncio.run(traced({"headers": []} | BARE, nothing, nothing))
    assert kept == [[], None]
