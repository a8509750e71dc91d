"""Spans in from any thread, sent to a collector by a thread of OpenTelemetry's SDK.

`serving.telemetry.tracing` imports this if spans are wanted; the SDK reads its own variables. Its queue is
bounded: a collector that is down or slow costs spans and a line of log, and delays no answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

_SERVICE: Final = "classifier"
"""`service.name` unless a variable sets it; Prometheus' job has the same name."""
_UNNAMED: Final = "unknown_service"
_FLUSH_SECONDS: Final = 5.0
"""Most time of a stop for the last spans; a collector that takes them needs a few milliseconds."""
_EPISODE_SECONDS: Final = 60.0
_SDK: Final = logging.getLogger("opentelemetry")


class Tracing:
    """What makes spans in this process, and sends them."""

    def __init__(self, provider: TracerProvider) -> None:
        self.tracer = provider.get_tracer("serving")
        self._provider = provider

    @classmethod
    def start(cls) -> Tracing:
        """Start as the variables say.

        Raises:
            ValueError: a variable has a value that the SDK refuses.
        """
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        episodes = _Episodes()
        exporter = _Watched(OTLPSpanExporter(), episodes)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        _SDK.addHandler(episodes)
        _SDK.propagate = False
        return cls(provider)

    def close(self, timeout_seconds: float) -> bool:
        """Send what waits, within a time; return whether it was all sent or refused."""
        # A daemon, since the SDK waits for up to 30 s, and for ever in a request that hangs.
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(min(timeout_seconds, _FLUSH_SECONDS))
        return not closing.is_alive()


class _Watched(SpanExporter):
    """Another exporter, of which the episodes learn whether it succeeds."""

    def __init__(self, exporter: SpanExporter, episodes: _Episodes) -> None:
        self._exporter, self._episodes = exporter, episodes

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; the SDK logs why it fails."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._episodes.end()
        return result

    def shutdown(self) -> None:
        """Abandon what is being sent."""
        self._exporter.shutdown()


class _Episodes(logging.Handler):
    """The SDK's complaints, several for each lost batch: a line when they begin, and one when they end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._began: float | None = None
        self._attempt = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the first of an episode, and let the SDK make no more: each costs the path microseconds."""
        if self._began is not None or record.name.startswith("opentelemetry.trace"):
            return  # the latter are about a caller's headers
        if record.name.startswith("opentelemetry.exporter") and record.levelno < logging.ERROR:
            self._attempt = record.getMessage()  # it is repeated, and the last error does not say why
            return
        self._began = time.monotonic()
        _SDK.setLevel(logging.CRITICAL)
        reason = f"{record.getMessage()} {self._attempt}".strip()
        structlog.get_logger().warning("spans are lost", reason=reason)

    def end(self) -> None:
        """Spans arrive. An episode lasts a minute at least: a queue may overflow now and then."""
        self._attempt = ""
        if self._began is not None and time.monotonic() - self._began >= _EPISODE_SECONDS:
            self._began = None
            _SDK.setLevel(logging.NOTSET)
            structlog.get_logger().info("spans arrive again")
