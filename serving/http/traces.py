"""A span for each request, with a child for each stage that it reached.

`serving.http.app` puts this around everything else if spans are wanted. The span begins with the request, so
that log and metrics have its ids; the children are made once it is answered, from what was noted on the way.
Health checks and scrapes have no span: they would be most of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from serving.contract.answer import Refusal
from serving.engine.job import FOLLOWED, Job, Result
from serving.http.answers import OUTCOME, route_of
from serving.http.request import SPAN, SpanIds, request_id, trace_parent
from serving.telemetry.metrics import METHODS, OTHER

_MOST_STATE_BYTES: Final = 512
"""A longer tracestate is left out: it is in each span that waits; the recommendation asks for no more."""
_UNTRACED: Final = re.compile(
    r"(/metrics|(/v2)?/health(/live|/ready)?|/v2/models/[^/]+(/versions/[^/]+)?/ready)/?"
)


@dataclass(slots=True)
class _Notes:
    """What happened in one request, by the service's clock."""

    began: float
    reading: bool = False
    """Whether a route has asked for the body."""
    complete: float | None = None
    body_bytes: int = 0
    jobs: list[Job] = field(default_factory=list)
    status: int | None = None
    """None if there was no answer."""
    failure: str = ""
    """The exception that left no answer."""

    def stages(self, ended: float) -> Iterator[tuple[str, float, float, Mapping[str, Any]]]:
        """The name, start, end and attributes of each child."""
        if self.reading and (self.body_bytes or self.complete is None):
            yield "upload", self.began, self.complete or ended, {}
        for job in self.jobs:
            # Of a request whose time is up, a worker may still be adding stages.
            starts = {stage: min(at, ended) for stage, at in ({"queue": job.queued_at} | job.began).items()}
            ends = [*starts.values(), min(job.ended or ended, ended)][1:]
            own = _about(job) if len(self.jobs) > 1 else {}
            for (stage, start), end in zip(starts.items(), ends, strict=True):
                yield stage, start, end, own


class Traced:
    """An ASGI application around another."""

    def __init__(
        self, app: ASGIApp, tracer: Tracer, clock: Callable[[], float], routes: Iterable[str]
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            tracer: Makes the spans.
            clock: The engine's: monotonic seconds.
            routes: The paths of the service.
        """
        self._app, self._tracer, self._clock, self._routes = app, tracer, clock, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Trace a request, unless it is a health check or a scrape."""
        if scope["type"] != ScopeType.HTTP or _UNTRACED.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        notes = _Notes(self._clock())
        wall_ns = time.time_ns() - _ns(notes.began)
        span = self._start(scope, wall_ns + _ns(notes.began))
        # Set for each request: the one before may have started this one, in its context.
        FOLLOWED.set(notes.jobs if span.is_recording() else None)
        if not span.is_recording():
            await self._app(scope, receive, send)
            return

        async def received() -> Any:
            notes.reading = True
            message = await receive()
            if message["type"] == "http.request" and notes.complete is None:
                notes.body_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    notes.complete = self._clock()
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                notes.status = message["status"]
            await send(message)

        try:
            await self._app(scope, received, answered)
        except BaseException as error:
            notes.failure = type(error).__name__
            raise
        finally:
            self._finish(span, scope, notes, wall_ns)
            notes.jobs.clear()  # timers of the connection keep the context, and thereby this list

    def _start(self, scope: HTTPScope, start_ns: int) -> Span:
        """The request's span; its ids go into the request's state, for the log and the metrics."""
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        parent = trace_parent(scope["headers"])
        span = self._tracer.start_span(
            method,
            _context(parent, scope) if parent else Context(),
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
            },
            start_time=start_ns,
        )
        context = span.get_span_context()
        ids = {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}
        above = {"parent_span_id": parent[1]} if parent else {}
        state: dict[str, Any] = scope.setdefault("state", {})
        state[SPAN] = SpanIds(ids | above, ids if span.is_recording() else None)
        return span

    def _finish(self, span: Span, scope: HTTPScope, notes: _Notes, wall_ns: int) -> None:
        """Say how the request ended, and add its stages."""
        ended = self._clock()
        state: dict[str, Any] = scope["state"]
        route = route_of(scope, self._routes)
        outcome = state.get(OUTCOME) if len(notes.jobs) < 2 else None  # of several photos, each has its own
        about: dict[str, Any] = {"classifier.request_id": request_id(scope), **_server(scope)}
        if notes.body_bytes:
            about["http.request.body.size"] = notes.body_bytes
        if len(notes.jobs) == 1:
            about |= _about(notes.jobs[0])
        if outcome:
            about["classifier.outcome"] = outcome
        if route != OTHER:
            about["http.route"] = route
            span.update_name(f"{scope['method']} {route}")
        if notes.status:
            about["http.response.status_code"] = notes.status
        if not notes.status or notes.status >= 500:
            about["error.type"] = outcome or notes.failure or str(notes.status)
            span.set_status(Status(StatusCode.ERROR))
        span.set_attributes(about)
        inside = set_span_in_context(span, Context())
        for name, start, end, attributes in notes.stages(ended):
            child = self._tracer.start_span(
                name, inside, attributes=attributes, start_time=wall_ns + _ns(start)
            )
            child.end(wall_ns + _ns(end))
        span.end(wall_ns + _ns(ended))


def _about(job: Job) -> dict[str, Any]:
    """What became of a photo that was computed."""
    future = job.future
    if not future.done() or future.cancelled() or future.exception():
        return {}
    result = future.result()
    if not isinstance(result, Result):
        return {}
    about = {"classifier.model_version": result.artifact.card.version}
    if isinstance(result.answer, Refusal):
        return about | {"classifier.outcome": result.answer.error}
    answer = {"prediction": result.answer.prediction, "uncertain": result.answer.uncertain, "outcome": "ok"}
    return about | {f"classifier.{name}": value for name, value in answer.items()}


def _context(parent: tuple[str, str, str], scope: HTTPScope) -> Context:
    """The caller's context: its ids and flags, and its tracestate, which is passed on."""
    states = [value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    state = TraceState.from_header(states if sum(map(len, states)) <= _MOST_STATE_BYTES else [])
    trace_id, span_id, flags = (int(part, 16) for part in parent)
    caller = SpanContext(trace_id, span_id, True, TraceFlags(flags), state)
    return set_span_in_context(NonRecordingSpan(caller), Context())


def _server(scope: HTTPScope) -> dict[str, Any]:
    """Which server the caller asked, by its header Host."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    try:
        parts = urlsplit(f"//{host}")
        found = {"server.address": parts.hostname, "server.port": parts.port}
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if value}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
