"""Request body in, the bytes of one encoded image out; limits bound the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from serving.contract.errors import ServingError

FIELD: Final = "file"


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


class CallerGone(UploadError):
    """The client closed the connection before the body was complete."""

    code = "disconnected"


async def read_body(
    receive: Callable[[], Awaitable[Any]], limit_bytes: int, limit_seconds: float, announced: str | None
) -> bytes:
    """Read an ASGI request body of at most `limit_bytes` that takes at most `limit_seconds`.

    Args:
        receive: The ASGI channel.
        limit_bytes: The limit on the size.
        limit_seconds: The limit on the time, so that a slow client cannot hold a connection for ever.
        announced: The Content-Length header; if it exceeds the limit, nothing is read.

    Raises:
        BodyTooLarge: more than the limit was announced or sent.
        UploadTooSlow: the body was not complete in time.
        CallerGone: the connection closed first.
    """
    too_large = f"The request body exceeds the limit of {limit_bytes} bytes. Send a smaller photo."
    if announced and announced.isdecimal() and int(announced) > limit_bytes:
        raise BodyTooLarge(too_large)
    try:
        async with asyncio.timeout(limit_seconds):
            return await _read_all(receive, limit_bytes, too_large)
    except TimeoutError as error:
        raise UploadTooSlow(
            f"The request was not complete after {limit_seconds:g} s. Send a smaller photo, or use a faster "
            "connection."
        ) from error


async def _read_all(receive: Callable[[], Awaitable[Any]], limit_bytes: int, too_large: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone("The client closed the connection before the request was complete.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise BodyTooLarge(too_large)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def extract_image(content_type: str, options: dict[str, str], body: bytes, max_parts: int) -> bytes:
    """The image in a body: the multipart field `file`, or the body itself.

    Raises:
        MissingFile: the body is empty, or has no field of that name.
        MalformedUpload: the multipart body cannot be parsed.
    """
    if content_type != "multipart/form-data":
        if not body:
            raise MissingFile(
                f'The request is empty. Send the image as the multipart field "{FIELD}" '
                f'(curl -F "{FIELD}=@dog.jpg") or as the body itself.'
            )
        return body
    names: list[str] = []
    content: list[bytes] = []
    try:
        with PushMultipartParser(options.get("boundary", ""), max_segment_count=max_parts) as parser:
            wanted = False
            for event in parser.parse(body) if body else ():
                if isinstance(event, MultipartSegment):
                    names.append(event.name)
                    wanted = event.name == FIELD and names.count(FIELD) == 1
                elif event is not None and wanted:
                    content.append(bytes(event))
    except (MultipartError, ValueError, LookupError) as error:
        raise MalformedUpload(
            "The multipart body cannot be parsed: it is incomplete, has more than "
            f"{max_parts} parts, or its boundary is not the one in Content-Type."
        ) from error
    if FIELD not in names:
        found = f"found {', '.join(sorted(set(names)))[:100]!r}" if names else "found none"
        raise MissingFile(
            f'There is no multipart field "{FIELD}" ({found}). '
            f'Send the image with curl -F "{FIELD}=@dog.jpg".'
        )
    return content[0] if len(content) == 1 else b"".join(content)
