"""Cross-origin requests: which pages of other origins a browser lets read the answers (the Fetch standard).

`serving.http.gate` adds the headers to every answer, errors too, and answers preflight requests before any
key is asked for: a browser sends none with them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from litestar.types import HTTPScope

Headers = list[tuple[bytes, bytes]]
ANY: Final = "*"
_METHODS: Final = b"GET, HEAD, POST"
_SENT: Final = (
    b"Authorization, Content-Type, Inference-Header-Content-Length, X-API-Key, X-Request-ID, "
    b"traceparent, tracestate"
)
_READ: Final = b"Inference-Header-Content-Length, Retry-After, Server-Timing, X-Prediction, X-Request-ID"
_REMEMBERED_SECONDS: Final = b"3600"
_CLOSED: Final = "/review/"
"""What no page of another origin may use, whatever is allowed elsewhere: it shows photos of strangers."""


class Cors:
    """The origins whose pages may use the service. Cookies play no part: nothing here sets one."""

    def __init__(self, origins: Collection[str]) -> None:
        """Allow origins.

        Args:
            origins: As `https://app.example.org`; `ANY` allows all.
        """
        self._any = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def of_answer(self, scope: HTTPScope) -> Headers:
        """The headers that let the page of the request read its answer; none if it may not."""
        if not self._origins or _is_closed(scope):
            return []
        if self._any:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _READ)]
        vary = [(b"vary", b"Origin")]  # also where none is allowed: caches hold what others may read
        origin = _header(scope, b"origin")
        if origin not in self._origins:
            return vary
        return [
            *vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _READ),
        ]

    def of_preflight(self, scope: HTTPScope) -> Headers | None:
        """The headers that answer a preflight request; None if this is none, or its page may not ask."""
        if scope["method"] != "OPTIONS" or not _header(scope, b"access-control-request-method"):
            return None
        if _is_closed(scope):
            return None
        if not (self._any or _header(scope, b"origin") in self._origins):
            return None
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _SENT),
            (b"access-control-max-age", _REMEMBERED_SECONDS),
        ]


def _is_closed(scope: HTTPScope) -> bool:
    return f"/{scope['path'].strip('/')}/".startswith(_CLOSED)


def _header(scope: HTTPScope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")
