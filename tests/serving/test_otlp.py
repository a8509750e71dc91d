"""Traces as they leave a real process for a collector, and collectors that misbehave."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.contract.errors import ConfigurationError
from serving.telemetry import otlp, tracing
from tests.collector import Collector, collector
from tests.pictures import encode, scene
from tests.processes import service
from tests.tiny import ROOT

Environment = Callable[..., dict[str, str]]
JPEG = encode(scene())
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LOST = "spans are lost"


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None of OpenTelemetry's variables from outside, and its log afterwards as it was."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    yield
    logging.getLogger("opentelemetry").handlers.clear()
    logging.getLogger("opentelemetry").propagate = True
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


@pytest.fixture
def received() -> Iterator[Collector]:
    """A collector that takes everything."""
    with collector() as server:
        yield server


def sending_to(url: str, **more: str) -> dict[str, str]:
    """The variables of a service that sends each span at once."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"} | more


def test_one_request_is_one_trace_at_the_collector(
    model: Path, environment: Environment, received: Collector
):
    """Five spans of the caller's trace, nested and in order, sent as the SDK's variables say."""
    more = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"}
    with service(environment(MODEL=str(model), **sending_to(received.url, **more))) as process:
        process.wait_for("ready")
        httpx.get(process.url + "/health")
        httpx.get(process.url + "/metrics")
        answer = httpx.post(
            process.url + "/predict",
            files={"file": JPEG},
            headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
        )
        spans = {span.name: span for span in received.spans(5)}
        assert process.stop() == 0
    assert received.requests[0][0] == "/v1/traces"
    assert received.requests[0][1]["api-key"] == "secret"
    assert answer.status_code == 200
    assert spans.keys() == {"POST /predict", "upload", "queue", "decode", "infer"}
    request = spans.pop("POST /predict")
    assert request.parent_span_id.hex() == CALLER
    assert request.kind == Span.SPAN_KIND_SERVER
    assert {span.trace_id.hex() for span in (request, *spans.values())} == {TRACE}
    assert {span.parent_span_id for span in spans.values()} == {request.span_id}
    stages = [spans[name] for name in ("upload", "queue", "decode", "infer")]
    times = [t for span in stages for t in (span.start_time_unix_nano, span.end_time_unix_nano)]
    times = [request.start_time_unix_nano, *times, request.end_time_unix_nano]
    assert times == sorted(times)
    assert abs(times[0] / 1e9 - time.time()) < 60


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "classifier"),
        ({"OTEL_SERVICE_NAME": "pets"}, "pets"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=pets"}, "pets"),
    ],
)
def test_the_service_has_a_name_of_its_own_unless_a_variable_names_it(
    variables: dict[str, str], name: str, received: Collector, monkeypatch: pytest.MonkeyPatch
):
    """Prometheus' job has the same one."""
    for key, value in sending_to(received.url, **variables).items():
        monkeypatch.setenv(key, value)
    sent = otlp.Tracing.start()
    sent.tracer.start_span("a span").end()
    assert sent.close(5)
    (resource,) = received.batches.get(timeout=5).resource_spans
    found = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert found["service.name"] == name


def test_a_stop_sends_the_last_spans(model: Path, environment: Environment, received: Collector):
    """Long before the batch would have been sent."""
    variables = sending_to(received.url, OTEL_BSP_SCHEDULE_DELAY="60000")
    with service(environment(MODEL=str(model), **variables)) as process:
        process.wait_for("ready")
        httpx.post(process.url + "/predict", content=JPEG)
        assert process.stop() == 0
        assert process.lines[-1]["event"] == "stopped"
    assert len(received.spans(5)) == 5


def test_a_collector_that_hangs_delays_neither_answers_nor_the_stop(
    model: Path, environment: Environment, received: Collector
):
    """The stop waits for it for a moment, within its own time, and says what was lost."""
    received.hangs = True
    variables = sending_to(received.url, SERVING_DRAIN_TIMEOUT_SECONDS="4", SERVING_DRAIN_GRACE_SECONDS="0")
    with service(environment(MODEL=str(model), **variables)) as process:
        process.wait_for("ready")
        with httpx.Client(base_url=process.url) as client:
            client.post("/predict", content=JPEG)
            received.batches.get(timeout=20)  # from here on it hangs
            for _ in range(50):
                assert client.post("/predict", content=JPEG).status_code == 200
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(20) == 0
        assert time.monotonic() - began < 4 + 1.5
        process._reader.join(10)
        assert [line["event"] for line in process.lines[-2:]] == [LOST, "stopped"]


def test_a_queue_that_overflows_costs_spans_and_one_line(
    model: Path, environment: Environment, received: Collector
):
    """Its size bounds the memory."""
    received.hangs = True
    variables = sending_to(received.url, OTEL_BSP_MAX_QUEUE_SIZE="10", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10")
    with service(environment(MODEL=str(model), **variables)) as process:
        process.wait_for("ready")
        with httpx.Client(base_url=process.url) as client:
            for _ in range(30):
                assert client.post("/predict", content=JPEG).status_code == 200
        assert "Queue full" in process.wait_for(LOST)["reason"]
        assert sum(line["event"] not in ("listening", "ready") for line in process.lines) == 1
        process.popen.kill()


def test_a_collector_that_refuses_costs_one_line_an_episode(
    model: Path, environment: Environment, received: Collector
):
    """Batch after batch is lost, and the log says so once, with the reason."""
    received.statuses = [401] * 100
    with service(environment(MODEL=str(model), **sending_to(received.url))) as process:
        process.wait_for("ready")
        for _ in range(4):
            assert httpx.post(process.url + "/predict", content=JPEG).status_code == 200
            received.batches.get(timeout=20)
        assert "Unauthorized" in process.wait_for(LOST)["reason"]
        assert process.stop() == 0
        events = [line["event"] for line in process.lines]
    assert events == ["listening", "ready", LOST, "draining", "stopped"]


def test_an_attempt_that_is_repeated_with_success_is_no_loss(
    received: Collector, monkeypatch: pytest.MonkeyPatch
):
    """As while a collector restarts."""
    received.statuses = [503]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
    sent = otlp.Tracing.start()
    with structlog.testing.capture_logs() as lines:
        sent.tracer.start_span("a span").end()
        assert sent.close(5)
    assert len(received.requests) == 2
    assert not lines


def test_the_log_says_when_spans_arrive_again(received: Collector, monkeypatch: pytest.MonkeyPatch):
    """And the next episode has a line of its own."""
    monkeypatch.setattr(otlp, "_EPISODE_SECONDS", 0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
    sent = otlp.Tracing.start()
    with structlog.testing.capture_logs() as lines:
        for status in (401, 401, 200, 200, 401):
            received.statuses = [status]
            sent.tracer.start_span("a span").end()
            sent._provider.force_flush()
        assert sent.close(5)
    assert [line["event"] for line in lines] == [LOST, "spans arrive again", LOST]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded(
    variables: dict[str, str], model: Path, environment: Environment
):
    """Nor if its variables switch it off; Litestar, which looks for a plugin, loads names of attributes."""
    code = """
import sys
from litestar.testing import TestClient
from serving.http.app import create_app
from serving.settings import from_environment
from serving.telemetry import tracing
app = create_app(from_environment(), tracing=tracing.from_environment())
with TestClient(app) as client:
    while client.get("/health").status_code != 200: pass
    assert client.post("/predict", content=sys.stdin.buffer.read()).status_code == 200
assert app.asgi_handler.__class__.__name__ == "Gate"
loaded = [name for name in sys.modules if name.startswith("opentelemetry.")]
print([name for name in loaded if not name.startswith("opentelemetry.semconv")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=JPEG,
        env=environment(MODEL=str(model), PYTHONPATH=str(ROOT), **variables),
        capture_output=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == [b"[]"], done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "no address. Write it as http://collector:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, "is no address"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"}, "OTEL_EXPORTER_OTLP_ENDPOINT='http://' is no address"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"}, "is no address"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "is no address"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:port"}, "is no address"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "x"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT='x' is no address"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' is not spoken here",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
            "OpenTelemetry refuses an OTEL_ variable: max_queue_size must be a positive integer",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_stops_the_start(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
):
    """With its name and the next step, before anything listens."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        tracing.from_environment()
    assert words in refused.value.detail


def test_missing_packages_stop_the_start_with_the_next_step(environment: Environment):
    """Status 2, and how to install them."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None; "
        "from serving.__main__ import main; sys.exit(main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=str(ROOT), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "OpenTelemetry is not installed" in done.stderr
    assert "pip install --no-deps --require-hashes -r requirements/otel.txt" in done.stderr
    assert "make image OTEL=1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_collector_that_is_not_there_delays_no_stop(model: Path, environment: Environment):
    """Nothing listens: the SDK would repeat for ten seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        limits = {"SERVING_DRAIN_TIMEOUT_SECONDS": "3", "SERVING_DRAIN_GRACE_SECONDS": "0"}
        variables = sending_to(url, OTEL_EXPORTER_OTLP_TIMEOUT="3", **limits)
        with service(environment(MODEL=str(model), **variables)) as process:
            process.wait_for("ready")
            assert httpx.post(process.url + "/predict", content=JPEG).status_code == 200
            assert "refused" in process.wait_for(LOST)["reason"]
            began = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - began < 3 + 1.5
