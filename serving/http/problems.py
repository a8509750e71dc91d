"""RFC 9457 problem details: exceptions in, `Response[Problem]` out; `kinds` has the statuses.

The routes take the OpenAPI description of their errors from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from serving.contract.errors import Overloaded, ServingError, Unauthorized
from serving.http.kinds import KINDS
from serving.http.upload import EncodedBody

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"
"""A page of the service itself describes each kind, so the reference resolves wherever it runs."""
EXAMPLE_ID: Final = "0c6f3a5e5ad54a0d9f3f3a1d1c1b2a90"
"""The request id that the documented examples show."""


_BY_STATUS: Final = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 500: "internal"}


class Problem(msgspec.Struct, frozen=True):
    """The body of an error answer."""

    type: str
    """Stable reference to the kind of problem, `/problems/<code>`, where the service describes it."""
    title: str
    status: int
    detail: str
    request_id: str


def code_of(error: Exception) -> str:
    """The code of any exception that is raised while answering."""
    if isinstance(error, ServingError) and error.code in KINDS:
        return error.code
    if isinstance(error, HTTPException):
        return _BY_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
    return "internal"


def detail_of(error: Exception) -> str:
    """A sentence for the client; for an unexpected error, it reveals nothing internal."""
    if isinstance(error, ServingError):
        return error.detail
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        return " ".join(f"{fault.get('key', 'request')}: {fault['message']}." for fault in error.extra)
    return KINDS[code_of(error)].title + "."


def response(error: Exception, request_id: str) -> Response[Problem]:
    """The answer to a request that ended in `error`."""
    headers = {}
    if isinstance(error, EncodedBody):
        headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
    wait_seconds = error.retry_after_seconds if isinstance(error, Overloaded) else 1.0
    headers |= retry_after(KINDS[code_of(error)].status, wait_seconds)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException) and error.headers:
        headers |= {key: value for key, value in error.headers.items() if key.lower() == "allow"}
    found = problem(error, request_id)
    return Response(found, media_type=MEDIA_TYPE, status_code=found.status, headers=headers)


def retry_after(status: int, seconds: float = 1.0) -> dict[str, str]:
    """The header that says when to retry, in whole seconds, if the service cannot answer now."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))} if status == 503 else {}


def problem(error: Exception, request_id: str) -> Problem:
    """The problem that `error` is."""
    return _problem(code_of(error), detail_of(error), request_id)


def encode(code: str, detail: str, request_id: str) -> bytes:
    """A problem as JSON, for an answer that no route makes."""
    return msgspec.json.encode(_problem(code, detail, request_id))


def _problem(code: str, detail: str, request_id: str) -> Problem:
    kind = KINDS[code]
    return Problem(TYPE_PREFIX + code, kind.title, kind.status, detail, request_id)


def documented(statuses: Sequence[int]) -> dict[int, ResponseSpec]:
    """The OpenAPI description of a route's errors, with an example of each kind."""
    return {status: _documented(status) for status in statuses}


def _documented(status: int) -> ResponseSpec:
    kinds = {code: kind for code, kind in KINDS.items() if kind.status == status}
    examples = [
        Example(
            id=code,
            summary=kind.title,
            value=msgspec.to_builtins(_problem(code, kind.example or f"{kind.title}.", EXAMPLE_ID)),
        )
        for code, kind in kinds.items()
    ]
    description = "; ".join(kind.title for kind in kinds.values()) + "."
    return ResponseSpec(
        Problem,
        generate_examples=False,
        description=description,
        media_type=MEDIA_TYPE,
        examples=examples,
    )
