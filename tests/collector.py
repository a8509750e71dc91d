"""A receiver of OTLP over HTTP, as a collector is one: it keeps what it is sent, or behaves badly."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(ThreadingHTTPServer):
    """Where spans arrive."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.batches: queue.Queue[ExportTraceServiceRequest] = queue.Queue()
        """The content of each request."""
        self.statuses: list[int] = []
        """What it answers next; 200 once they are used up."""
        self.hangs = False
        """It takes requests, and does not answer."""
        self.released = threading.Event()
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and headers of each request."""
        self._spans: list[Span] = []

    @property
    def url(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self, count: int, seconds: float = 20) -> list[Span]:
        """The spans that have arrived, once there are so many."""
        deadline = time.monotonic() + seconds
        while len(self._spans) < count:
            batch = self.batches.get(timeout=max(0.0, deadline - time.monotonic()))
            self._spans += [s for r in batch.resource_spans for scope in r.scope_spans for s in scope.spans]
        return self._spans


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Collector
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers))
        self.server.batches.put(ExportTraceServiceRequest.FromString(body))
        if self.server.hangs:
            self.server.released.wait(120)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[Collector]:
    """One on a free port."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
