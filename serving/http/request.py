"""One request: its id, its trace context and its body, which every route reads within the settings' limits.

`serving.http.app` passes this class to Litestar, which calls every handler and exception handler with it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar, cast

from litestar import Request, Response
from litestar.types import ExceptionHandlersMap, Scope

from serving.engine.budget import Share
from serving.http.sinks import Photos, Sink, TooManyPhotos, Whole, sink_for
from serving.http.upload import Allowance, CallerGone, read_body
from serving.service import Service

T = TypeVar("T")
_TRACE_PARENT: Final = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
"""A W3C traceparent: of version 00 with 55 characters, of a later one with more fields if it has them."""
_REQUEST_ID: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")  # a name with a dot first is a hidden file
_MOST_JSON_BYTES: Final = 65_536
_ID: Final = "request_id"
_ID_BYTES: Final = 16
_IDS_AT_ONCE: Final = 256
_BODY_BYTES: Final = "body_bytes"
SHARE: Final = "share"
"""Key, in the state of a request, of its share of the budget of bytes."""
SPAN: Final = "span"
"""Key, in the state of a request, of the `SpanIds` of its span, if it is traced."""


class SpanIds(NamedTuple):
    """The ids of a request's span."""

    logged: dict[str, str]
    """Fields of the log: trace, span and, if the caller has one, the span above."""
    exemplar: dict[str, str] | None
    """Trace and span, for the metrics; None if the span is not recorded."""


def _random_ids() -> Iterator[str]:
    """32 hexadecimal digits that nobody can guess: whoever knows an id may send a label for its photo.

    One call of the system serves many: each gives up the interpreter lock, and waits to get it back.
    """
    while True:
        drawn = os.urandom(_IDS_AT_ONCE * _ID_BYTES).hex()
        for start in range(0, len(drawn), 2 * _ID_BYTES):
            yield drawn[start : start + 2 * _ID_BYTES]


_IDS: Final = _random_ids()


class ServiceRequest(Request[Any, Any, Any]):
    """A request to this service."""

    _whole: bytes | None = None

    @cached_property
    def service(self) -> Service:
        """The service of this process."""
        return cast("Service", self.app.state.service)

    @cached_property
    def id(self) -> str:
        """The client's X-Request-ID if it is a plain token, else a new id; constant within a request."""
        return request_id(self.scope)

    @property
    def trace(self) -> dict[str, str]:
        """The ids of this request's span, or those of the caller's; empty without either."""
        span: SpanIds | None = self.scope["state"].get(SPAN)
        if span:
            return span.logged
        found = trace_parent(self.scope["headers"])
        return {"trace_id": found[0], "parent_span_id": found[1]} if found else {}

    @property
    def exemplar(self) -> dict[str, str] | None:
        """The ids of this request's span if it is recorded, for the metrics."""
        span: SpanIds | None = self.scope["state"].get(SPAN)
        return span.exemplar if span else None

    @property
    def body_bytes(self) -> int | None:
        """Size of the photo, or of another body, once it was read."""
        return self.scope["state"].get(_BODY_BYTES)

    async def body(self) -> bytes:
        """The whole body of a request without a photo; Litestar's JSON parsing reads it through this method.

        Raises:
            UploadError: the body is too large or too slow, or the client disconnected.
            Overloaded: there is no memory for it now.
        """
        if self._whole is None:
            self._whole = bytes(await self.read(Whole(), _MOST_JSON_BYTES))
            self.scope["state"][_BODY_BYTES] = len(self._whole)
        return self._whole

    async def read(self, sink: Sink[T], limit_bytes: int) -> T:
        """What `sink` makes of the body.

        Raises:
            UploadError: the body is too large or too slow, or refused by the sink.
            Overloaded: there is no memory for it now.
        """
        service = self.service
        allowance = Allowance(service.budget, limit_bytes, service.settings.upload_seconds)

        def keep(share: Share) -> None:
            self.scope["state"][SHARE] = share

        return await read_body(self.receive, sink, allowance, self.headers, keep)

    async def photos(self) -> tuple[Photos, float]:
        """The encoded images, and when the request was complete, by the service's clock.

        Raises:
            ServingError: the upload is invalid, there is no memory for it, or no model is ready.
        """
        settings = self.service.settings
        sink = sink_for(*self.content_type, settings.max_parts)
        photos = await self.read(sink, settings.max_body_bytes)
        return photos, self.arrived(sum(map(len, photos.encoded)))

    async def photo(self) -> tuple[bytes, float]:
        """The encoded image of a request that may have one.

        Raises:
            ServingError: as for `photos`, or there are several.
        """
        photos, arrived = await self.photos()
        if len(photos.encoded) != 1:
            raise TooManyPhotos(f"The request has {len(photos.encoded)} photos. Send them one by one.")
        return photos.encoded[0], arrived

    def arrived(self, photo_bytes: int) -> float:
        """When the request was complete, by the service's clock; the upload before it does not count.

        Args:
            photo_bytes: Size of what it carries, for the log.

        Raises:
            NotReady: no model is ready.
        """
        arrived = self.service.clock()
        self.scope["state"][_BODY_BYTES] = photo_bytes
        self.service.require_ready()
        return arrived

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; if the client disconnects first, cancel it.

        Raises:
            CallerGone: the connection closed before the answer was ready.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a running coroutine has one)
        waiting = True

        def leave(_: asyncio.Future[Any]) -> None:
            if waiting:
                task.cancel()

        watching = asyncio.ensure_future(
            self.receive()
        )  # the body has been read: the next message is the disconnect
        watching.add_done_callback(leave)
        try:
            return await work
        except asyncio.CancelledError:
            if watching.done() and task.uncancel() == 0:
                raise CallerGone("The client closed the connection before the answer was ready.") from None
            raise
        finally:
            waiting = False
            watching.cancel()


def request_id(scope: Scope) -> str:
    """The id, kept in `scope`: the client's X-Request-ID if it is a plain token, else a new one."""
    state = scope["state"]  # an exception handler gets another instance of the same request
    if _ID not in state:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        text = given.decode("latin-1")
        state[_ID] = text if _REQUEST_ID.fullmatch(text) else next(_IDS)
    return cast("str", state[_ID])


def trace_parent(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str, str] | None:
    """Trace id, span id and flags of the W3C traceparent; None unless there is one, and it is valid."""
    sent = [value for name, value in headers if name == b"traceparent"]
    found = _TRACE_PARENT.fullmatch(sent[0]) if len(sent) == 1 else None
    return (found[1].decode(), found[2].decode(), found[3].decode()) if found else None


def handling(
    kind: type[Exception], handler: Callable[[ServiceRequest, Any], Response[Any]]
) -> ExceptionHandlersMap:
    """Litestar's map of one exception handler; its types do not know `ServiceRequest`."""
    return {kind: cast("Any", handler)}
