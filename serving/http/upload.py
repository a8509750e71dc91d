"""Request body in, the bytes of one encoded image out, as they arrive; limits bound the memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from serving.contract.errors import ServingError
from serving.engine.budget import ByteBudget, Share, no_room

FIELD: Final = "file"
_FILE_FIELDS: Final = re.compile(
    rb'(?i:Content-Disposition): form-data; name="file"(?:; filename="[^"\r\n]*")?\r\n'
    rb"(?:(?i:Content-Type): [^\r\n]*\r\n)?\r\n"
)
"""The head of the field, as curl, browsers and most libraries write it."""


@dataclass
class UploadOperation(Operation):
    """The OpenAPI description of an upload, which Litestar cannot derive: a form or the plain bytes."""

    def __post_init__(self) -> None:
        """Describe the body."""
        image = Schema(
            type=OpenAPIType.STRING,
            content_media_type="application/octet-stream",
            description="The encoded image.",
        )
        form = Schema(type=OpenAPIType.OBJECT, properties={FIELD: image}, required=[FIELD])
        content = {"multipart/form-data": form, "application/octet-stream": image, "image/*": image}
        self.request_body = RequestBody(
            required=True, content={kind: OpenAPIMediaType(schema=schema) for kind, schema in content.items()}
        )


class UploadError(ServingError):
    """The request does not carry one image in an accepted form."""


class MissingFile(UploadError):
    """No image was sent."""

    code = "missing-file"


class MalformedUpload(UploadError):
    """The multipart body cannot be parsed."""

    code = "malformed-upload"


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


class Whole:
    """Keeps a body as it is."""

    def __init__(self) -> None:
        self._kept = bytearray()  # a list of chunks would take forty times the bytes that come one by one

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes of the body; return how many of them are kept."""
        self._kept += chunk
        return len(chunk)

    def finish(self) -> bytes:
        """What was kept, once the body is complete."""
        return bytes(self._kept)


class Plain(Whole):
    """Keeps a body that is the image itself."""

    def finish(self) -> bytes:
        """The image.

        Raises:
            MissingFile: the body is empty.
        """
        image = super().finish()
        if not image:
            raise MissingFile(
                f'The request is empty. Send the image as the multipart field "{FIELD}" '
                f'(curl -F "{FIELD}=@dog.jpg") or as the body itself.'
            )
        return image


class Form:
    """Keeps the field `file` of a multipart body; the other fields are parsed and dropped.

    A body that begins with that field, as nearly every one does, is kept as it comes. If nothing follows the
    field, its bytes are cut out at the end; else the parser reads the whole.
    """

    def __init__(self, boundary: str, max_parts: int) -> None:
        self._max_parts = max_parts
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        self._begun = False
        self._simple: bytearray | None = None
        self._start = 0
        # Nobody reads the names of files, which are in whatever encoding the client's system has.
        self._parser = PushMultipartParser(boundary, max_segment_count=max_parts, header_charset="latin-1")
        self._names: list[str] = []
        self._wanted = Whole()
        self._is_wanted = False

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes of the body; return how many of them are kept.

        Raises:
            MalformedUpload: they cannot be parsed.
        """
        if not self._begun and chunk:
            self._begun = True
            head = self._delimiter[2:] + b"\r\n"
            fields = _FILE_FIELDS.match(chunk, len(head)) if chunk.startswith(head) else None
            if fields:
                self._simple, self._start = bytearray(), fields.end()
        if self._simple is not None:
            self._simple += chunk
            return len(chunk)
        return self._parse(chunk)

    def _parse(self, chunk: bytes) -> int:
        kept = 0
        try:
            for event in self._parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    self._names.append(event.name)
                    self._is_wanted = event.name == FIELD and self._names.count(FIELD) == 1
                elif event is not None and self._is_wanted:
                    kept += self._wanted.feed(bytes(event))
        except (MultipartError, ValueError, LookupError) as error:
            raise self._malformed() from error
        return kept

    def finish(self) -> bytes:
        """The field `file`.

        Raises:
            MissingFile: there is no field of that name.
            MalformedUpload: the body is incomplete.
        """
        if self._simple is not None:
            end = self._simple.find(self._delimiter, self._start)
            if end >= 0 and self._simple[end + len(self._delimiter) :] in (
                bytearray(b"--"),
                bytearray(b"--\r\n"),
            ):
                return bytes(memoryview(self._simple)[self._start : end])
            self._parse(bytes(self._simple))
        try:
            self._parser.close()
        except (MultipartError, ValueError, LookupError) as error:
            raise self._malformed() from error
        if FIELD not in self._names:
            found = f"found {', '.join(sorted(set(self._names)))[:100]!r}" if self._names else "found none"
            raise MissingFile(
                f'There is no multipart field "{FIELD}" ({found}). '
                f'Send the image with curl -F "{FIELD}=@dog.jpg".'
            )
        return self._wanted.finish()

    def _malformed(self) -> MalformedUpload:
        return MalformedUpload(
            "The multipart body cannot be parsed: it is incomplete, has more than "
            f"{self._max_parts} parts, or its boundary is not the one in Content-Type."
        )


def image_sink(content_type: str, options: dict[str, str], max_parts: int) -> Plain | Form:
    """What keeps the image of a body: the multipart field `file`, or the body itself.

    Raises:
        MalformedUpload: the multipart body has no usable boundary.
    """
    if content_type.lower() != "multipart/form-data":
        return Plain()
    try:
        return Form(options.get("boundary", ""), max_parts)
    except (MultipartError, ValueError, LookupError) as error:
        raise MalformedUpload("The Content-Type of the multipart body has no usable boundary.") from error


async def read_body(
    receive: Callable[[], Awaitable[Any]],
    sink: Whole | Form,
    allowance: Allowance,
    headers: Mapping[str, str],
    keep: Callable[[Share], None],
) -> bytes:
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
    receive: Callable[[], Awaitable[Any]], sink: Whole | Form, share: Share, allowance: Allowance
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
