"""RFC 9457 problem details: the one place where a fault's code becomes a HTTP status."""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from serving.contract.errors import Overloaded, ServingError, Unauthorized

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:problem:"
_TRACE_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is the same each time a problem of one code occurs."""

    status: int
    title: str


KINDS: Final[dict[str, Kind]] = {
    "missing-file": Kind(400, "No image was sent"),
    "malformed-upload": Kind(400, "The upload cannot be parsed"),
    "malformed-feedback": Kind(400, "The feedback cannot be read"),
    "bad-request": Kind(400, "The request is not understood"),
    "unauthorized": Kind(401, "The API key is missing or wrong"),
    "not-found": Kind(404, "There is nothing at this address"),
    "unknown-request": Kind(404, "This request is not remembered"),
    "method-not-allowed": Kind(405, "This method is not allowed here"),
    "upload-timeout": Kind(408, "The upload took too long"),
    "body-too-large": Kind(413, "The upload is too large"),
    "image-too-large": Kind(413, "The image is too large"),
    "unsupported-image": Kind(415, "Not an accepted image format"),
    "empty": Kind(422, "The image is empty"),
    "broken-image": Kind(422, "The image is broken"),
    "unknown-label": Kind(422, "The label is none of the model's"),
    "disconnected": Kind(499, "The caller went away"),
    "not-explainable": Kind(501, "This model cannot explain itself"),
    "feedback-off": Kind(404, "This service takes no feedback"),
    "internal": Kind(500, "The service failed"),
    "overloaded": Kind(503, "The service is overloaded"),
    "not-ready": Kind(503, "The service is not ready"),
    "deadline-exceeded": Kind(504, "The answer took too long"),
}
_BY_STATUS: Final = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 500: "internal"}


class Problem(msgspec.Struct, frozen=True):
    """The body of an error answer."""

    type: str
    """Stable name of the kind of problem, `urn:problem:<code>`."""
    title: str
    status: int
    detail: str
    request_id: str


def code_of(error: Exception) -> str:
    """The code of anything that can be raised while answering."""
    if isinstance(error, ServingError) and error.code in KINDS:
        return error.code
    if isinstance(error, HTTPException):
        return _BY_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
    return "internal"


def detail_of(error: Exception) -> str:
    """A sentence for the caller; of an error that is not ours it tells nothing from inside."""
    if isinstance(error, ServingError):
        return error.detail
    return KINDS[code_of(error)].title + "."


def response(error: Exception, identifier: str) -> Response[bytes]:
    """The answer to a request that ended in `error`."""
    headers = {"X-Request-ID": identifier}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException) and error.headers:
        headers |= {key: value for key, value in error.headers.items() if key.lower() == "allow"}
    return build(code_of(error), detail_of(error), identifier, headers)


def build(code: str, detail: str, identifier: str, headers: dict[str, str] | None = None) -> Response[bytes]:
    """The answer for a problem of kind `code`."""
    kind = KINDS[code]
    problem = Problem(TYPE_PREFIX + code, kind.title, kind.status, detail, identifier)
    return Response(
        msgspec.json.encode(problem), media_type=MEDIA_TYPE, status_code=kind.status, headers=headers
    )


def request_id(request: Request[Any, Any, Any]) -> str:
    """The caller's X-Request-ID if it is a plain token, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def trace_context(request: Request[Any, Any, Any]) -> dict[str, str]:
    """`trace_id` and `parent_span_id` of a W3C traceparent header; nothing if there is no valid one."""
    found = _TRACE_PARENT.fullmatch(request.headers.get("traceparent", ""))
    return {"trace_id": found[1], "parent_span_id": found[2]} if found else {}


def handle_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's hook for everything that a route did not answer itself (404, 405, faults)."""
    return response(error, request_id(request))
