"""What holds for every request, whatever answers it: `serving.http.app` puts it around the routes.

Each has an id, which its answer carries; each answer has the headers that keep a browser from guessing and
from framing, and is counted; HEAD is answered as GET is; what a body held of the budget is given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from serving.http.request import ID, SHARE, request_id

if TYPE_CHECKING:
    from serving.service import Service

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
OTHER: Final = "other"
"""The label of what no route and no method is for."""


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] == ScopeType.WEBSOCKET:  # there are none
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        state: dict[str, Any] = scope.setdefault("state", {})
        identity = state[ID] = request_id(given.decode("latin-1"))

        is_head = scope["method"] == "HEAD"
        inner = cast("HTTPScope", {**scope, "method": "GET"}) if is_head else scope

        async def answer(message: Message) -> None:
            if (
                message["type"] == "http.response.body" and is_head
            ):  # as GET, without the body (RFC 9110, 9.3.2)
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                headers = [*message["headers"]]
                present = {name.lower() for name, _ in headers}
                for name, value in ((b"x-request-id", identity.encode()), *_ALWAYS):
                    if name not in present:
                        headers.append((name, value))
                message["headers"] = headers
                self._count(scope["method"], _route(inner), message["status"])
            await send(message)

        try:
            await self._app(inner, receive, answer)
        finally:
            if SHARE in state:
                self._service.budget.release(state[SHARE])

    def _count(self, method: str, route: str, status: int) -> None:
        known = method if method in _METHODS else OTHER
        self._service.metrics.answered(route, known, status)


def _route(scope: HTTPScope) -> str:
    """The template of the route that answered; one label for whatever has none."""
    template = scope.get("path_template")
    return str(template) if template else OTHER
