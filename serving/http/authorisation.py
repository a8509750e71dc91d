"""The guard of the routes that the operator's key opens."""

from __future__ import annotations

import hmac
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from serving.contract.errors import Unauthorized
from serving.service import Service


def require_key(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Compare the key in constant time, if the service has one, before anything of the body is read.

    Raises:
        Unauthorized: the key is missing or wrong.
    """
    service: Service = connection.app.state.service
    key = service.settings.api_key
    if not key:
        return
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    shown = connection.headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
    if not hmac.compare_digest(shown.encode(), key.encode()):
        raise Unauthorized('Show the key as "Authorization: Bearer KEY" or "X-API-Key: KEY".')
