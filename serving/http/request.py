"""One request: its id and trace, and its body, read under the settings' caps whichever route wants it.

`serving.http.app` gives this class to Litestar: every handler and exception handler is called with it.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, Final, TypeVar, cast

from litestar import Request, Response
from litestar.types import ExceptionHandlersMap

from serving.http.upload import CallerGone, extract_image, read_body
from serving.service import Service

T = TypeVar("T")
_TRACE_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID: Final = "request_id"


class ServiceRequest(Request[Any, Any, Any]):
    """A request to this service."""

    _whole: bytes | None = None

    @cached_property
    def service(self) -> Service:
        """The parts of this process."""
        return cast("Service", self.app.state.service)

    @cached_property
    def id(self) -> str:
        """The caller's X-Request-ID if it is a plain token, else a new one; the same each time."""
        state = self.scope["state"]  # an exception handler has another instance of the same request
        if _ID not in state:
            given = self.headers.get("x-request-id", "")
            state[_ID] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return cast("str", state[_ID])

    @property
    def trace(self) -> dict[str, str]:
        """`trace_id` and `parent_span_id` of a W3C traceparent header; nothing if there is no valid one."""
        found = _TRACE_PARENT.fullmatch(self.headers.get("traceparent", ""))
        return {"trace_id": found[1], "parent_span_id": found[2]} if found else {}

    async def body(self) -> bytes:
        """The whole body; Litestar's own reading of JSON comes through here too.

        Raises:
            UploadError: it is too large, too slow, or the caller went away.
        """
        if self._whole is None:
            settings = self.service.settings
            announced = self.headers.get("content-length")
            self._whole = await read_body(
                self.receive, settings.max_body_bytes, settings.upload_seconds, announced
            )
        return self._whole

    async def photo(self) -> tuple[bytes, float]:
        """The encoded image that was sent, and when the request was complete, by the service's clock.

        Raises:
            ServingError: whatever is wrong with the upload, or no model is ready.
        """
        body = await self.body()
        arrived = self.service.clock()  # the caller's uplink is not ours to answer for
        self.service.require_ready()
        return extract_image(*self.content_type, body, self.service.settings.max_parts), arrived

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; if the caller goes away first, cancel it.

        Raises:
            CallerGone: the connection closed before the answer was there.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine that runs has one)
        waiting = True

        def leave(_: asyncio.Future[Any]) -> None:
            if waiting:
                task.cancel()

        watching = asyncio.ensure_future(self.receive())  # the body is read: next comes the disconnect
        watching.add_done_callback(leave)
        try:
            return await work
        except asyncio.CancelledError:
            if watching.done() and task.uncancel() == 0:
                raise CallerGone("The caller closed the connection before the answer was ready.") from None
            raise
        finally:
            waiting = False
            watching.cancel()


def handling(
    kind: type[Exception], handler: Callable[[ServiceRequest, Any], Response[Any]]
) -> ExceptionHandlersMap:
    """Litestar's map of one exception handler; its types do not know of `ServiceRequest`."""
    return {kind: cast("Any", handler)}
