"""The guards of the routes that require the operator's key, or a page of the service itself."""

from __future__ import annotations

import hmac
from typing import Any, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from serving.contract.errors import CrossOrigin, Unauthorized
from serving.http.request import ServiceRequest


async def require_key(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Litestar's guard; it awaits nothing, but a plain function would run in a thread, at 0.1 ms per request.

    Raises:
        Unauthorized: as for `check_key`.
    """
    check_key(cast("ServiceRequest", connection))


async def require_same_origin(
    connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
) -> None:
    """Litestar's guard of what no page of another origin may ask for; programs send neither header.

    Raises:
        CrossOrigin: a browser says that another origin asks.
    """
    site, origin = (connection.headers.get(name, "") for name in ("sec-fetch-site", "origin"))
    if site:
        same = site in ("same-origin", "none")
    else:  # browsers from before 2023
        same = not origin or origin.partition("://")[2] == connection.headers.get("host", "")
    if not same:
        raise CrossOrigin("A page of another origin asks. Use the service's own page, /review.")


def check_key(request: ServiceRequest) -> None:
    """Compare with each key in constant time, if the service has any, before the body is read.

    Raises:
        Unauthorized: the key is missing or wrong.
    """
    keys = request.service.settings.api_keys
    if not keys:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    shown = request.headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
    if not any([hmac.compare_digest(shown.encode(), key.encode()) for key in keys]):  # noqa: C419 (all of them)
        raise Unauthorized('Send the key as "Authorization: Bearer KEY" or "X-API-Key: KEY".')
