"""The OpenAPI description: what Litestar cannot derive, keys and headers, is added to what it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityRequirement,
    SecurityScheme,
)

from serving.http.sinks import FIELD

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


_IMAGE: Final = Schema(
    type=OpenAPIType.STRING,
    format=OpenAPIFormat.BINARY,  # of OpenAPI 3.0, by which generators know that it is no text
    content_media_type="application/octet-stream",
    description="The encoded image.",
)


@dataclass
class UploadOperation(Operation):
    """The OpenAPI description of an upload, which Litestar cannot derive.

    The service takes the bytes alone too. They are not described everywhere: of an operation that has two
    forms of body and no parameter, openapi-python-client makes code that does not compile.
    """

    def __post_init__(self) -> None:
        """Describe the form with one photo."""
        form = Schema(type=OpenAPIType.OBJECT, properties={FIELD: _IMAGE}, required=[FIELD])
        self.request_body = RequestBody(required=True, content=_media_types({"multipart/form-data": form}))


@dataclass
class PhotosOperation(UploadOperation):
    """The same where several photos may be sent."""

    def __post_init__(self) -> None:
        """Describe the form, the bytes of one photo, and the list."""
        super().__post_init__()
        photo = Schema(type=OpenAPIType.STRING, content_encoding="base64", description="The encoded image.")
        one = Schema(type=OpenAPIType.OBJECT, properties={"b64": photo}, required=["b64"])
        several = Schema(type=OpenAPIType.ARRAY, items=one, min_items=1)
        document = Schema(type=OpenAPIType.OBJECT, properties={"instances": several}, required=["instances"])
        self.request_body = RequestBody(
            required=True,
            description=f'One photo; or several, as repeated fields "{FIELD}" or as JSON.',
            content={
                **self.request_body.content,  # type: ignore[union-attr]
                **_media_types({"application/octet-stream": _IMAGE, "application/json": document}),
            },
        )


def _media_types(schemas: dict[str, Schema]) -> dict[str, OpenAPIMediaType]:
    return {kind: OpenAPIMediaType(schema=schema) for kind, schema in schemas.items()}


def complete(description: OpenAPI) -> None:
    """Add the headers of every answer."""
    for path, item in (description.paths or {}).items():
        for operation in (item.get, item.post, item.delete):
            for status, response in ((operation and operation.responses) or {}).items():
                if isinstance(response, OpenAPIResponse):
                    for kind, media in (response.content or {}).items():
                        if kind.startswith("image/") or kind == "application/zip":
                            media.schema = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
                    named = _OF_STATUS.get(status, {}) | _OF_ROUTE.get((path, status), {})
                    response.headers = {
                        name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=text)
                        for name, text in ({"X-Request-ID": _REQUEST_ID} | named).items()
                    }
