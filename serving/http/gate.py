"""What holds for every request, whatever answers it: `serving.http.app` puts it around the routes.

Each has an id, which its answer carries; each answer has the headers that keep a browser from guessing and
from framing, and is counted; HEAD is answered as GET is; pages of other origins may read what the operator
lets them; what a body held of the budget is given back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from serving.http.answers import route_of
from serving.http.cors import Cors
from serving.http.predict import PATH, predict_directly
from serving.http.request import SHARE, request_id

if TYPE_CHECKING:
    from serving.service import Service

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)

_METHODS: Final = b"DELETE, GET, HEAD, OPTIONS, POST"


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, service: Service, routes: Iterable[str]) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            service: Has the metrics and the budget.
            routes: The paths of the service; an answer that no route gave, such as a 405, is counted under
                one of these or under `OTHER`.
        """
        self._app, self._service, self._routes = app, service, frozenset(routes)
        self._cors = Cors(service.settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] == ScopeType.WEBSOCKET:  # there are none
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        identity = request_id(scope)
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
                message["headers"] = headers + self._cors.of_answer(inner)
                route = route_of(inner, self._routes)
                self._service.metrics.answered(route, scope["method"], message["status"])
            await send(message)

        options = self._cors.of_preflight(inner)
        if options is None and scope["method"] == "OPTIONS" and scope["path"] == "*":
            options = [(b"allow", _METHODS)]  # of the service as a whole (RFC 9110, 9.3.7)
        if options is not None:
            await answer({"type": "http.response.start", "status": 204, "headers": options})
            await answer({"type": "http.response.body", "body": b"", "more_body": False})
            return
        simple = scope["method"] == "POST" and scope["path"] == PATH and not scope["query_string"]
        try:
            await (predict_directly if simple else self._app)(inner, receive, answer)
        finally:
            if SHARE in state:
                self._service.budget.release(state[SHARE])
