"""The OpenAPI description: what Litestar cannot derive, keys and headers, is added to what it can."""

from __future__ import annotations

from typing import Final

from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIResponse,
    OpenAPIType,
    Schema,
    SecurityRequirement,
    SecurityScheme,
)

KEY: Final[list[SecurityRequirement]] = [{"bearer": []}, {"key": []}]
"""The security of a route that requires the operator's key: one header or the other."""
COMPONENTS: Final = Components(
    security_schemes={
        "bearer": SecurityScheme(type="http", scheme="bearer", description="Authorization: Bearer KEY"),
        "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
    }
)
_REQUEST_ID: Final = "The request's id: that of the header X-Request-ID, if the client sent a plain token."
_OF_STATUS: Final = {
    "401": {"WWW-Authenticate": "How to send the key."},
    "503": {"Retry-After": "Seconds after which a retry is worthwhile, if the service is overloaded."},
    "415": {"Accept-Encoding": "The content codings that are accepted, if that of the body is not."},
}
_OF_ROUTE: Final = {
    ("/predict", "200"): {"Server-Timing": "Duration of queue, decode and infer, in milliseconds."},
    ("/explain", "200"): {
        "Server-Timing": "Duration of queue and explain, in milliseconds.",
        "X-Prediction": "The label that the map is of, percent-encoded where it is not plain ASCII.",
    },
}


def complete(description: OpenAPI) -> None:
    """Add the headers of every answer."""
    for path, item in (description.paths or {}).items():
        for operation in (item.get, item.post):
            for status, response in ((operation and operation.responses) or {}).items():
                if isinstance(response, OpenAPIResponse):
                    named = _OF_STATUS.get(status, {}) | _OF_ROUTE.get((path, status), {})
                    response.headers = {
                        name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=text)
                        for name, text in ({"X-Request-ID": _REQUEST_ID} | named).items()
                    }
