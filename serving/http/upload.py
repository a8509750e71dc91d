"""Request body in, what its sink makes of it out, as it arrives; limits bound the memory and the time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from serving.engine.budget import ByteBudget, Share, no_room
from serving.http.sinks import Sink, UploadError

T = TypeVar("T")


class BodyTooLarge(UploadError):
    """The body exceeds the limit."""

    code = "body-too-large"


class UploadTooSlow(UploadError):
    """The body did not arrive in time."""

    code = "upload-timeout"


class EncodedBody(UploadError):
    """The body has a content coding."""

    code = "content-encoding"


class CallerGone(UploadError):
    """The client closed the connection before the body was complete."""

    code = "disconnected"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How large a body may be, how long it may take, and from which budget its bytes come."""

    budget: ByteBudget
    limit_bytes: int
    limit_seconds: float


async def read_body(
    receive: Callable[[], Awaitable[Any]],
    sink: Sink[T],
    allowance: Allowance,
    headers: Mapping[str, str],
    keep: Callable[[Share], None],
) -> T:
    """Read an ASGI request body within its allowance.

    Args:
        receive: The ASGI channel.
        sink: Takes the bytes as they arrive.
        allowance: The limits; the one on time keeps a slow client from holding a connection for ever.
        headers: The request's; if Content-Length exceeds the limit, nothing is read.
        keep: Called with the body's share of the budget, which the caller releases after the answer.

    Raises:
        BodyTooLarge: more than the limit was announced or sent.
        UploadTooSlow: the body was not complete in time.
        EncodedBody: it has a content coding.
        CallerGone: the connection closed first.
        Overloaded: there is no memory for it now.
        UploadError: the sink refuses it.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise EncodedBody(f"The body has the content coding {coding[:40]!r}. Send the photo without one.")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > allowance.limit_bytes:
        raise _too_large(allowance)
    evicted = False
    try:
        async with asyncio.timeout(allowance.limit_seconds) as clock:

            def give_way() -> None:
                nonlocal evicted
                evicted = True
                clock.reschedule(0)

            share = allowance.budget.open(int(announced) if announced.isdecimal() else 0, give_way)
            keep(share)
            await _read_all(receive, sink, share, allowance)
            allowance.budget.completed(share)
    except TimeoutError as error:
        if evicted:
            raise no_room() from error
        raise UploadTooSlow(
            f"The request was not complete after {allowance.limit_seconds:g} s. Send a smaller photo, or use "
            "a faster connection."
        ) from error
    return sink.finish()


async def _read_all(
    receive: Callable[[], Awaitable[Any]], sink: Sink[T], share: Share, allowance: Allowance
) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone("The client closed the connection before the request was complete.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > allowance.limit_bytes:
            raise _too_large(allowance)
        allowance.budget.received(share, sink.feed(chunk))
        if not message.get("more_body", False):
            return


def _too_large(allowance: Allowance) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request body exceeds the limit of {allowance.limit_bytes} bytes. Send a smaller photo."
    )
