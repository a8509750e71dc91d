"""What OpenAPI says of `POST /predict`, which reads its body by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from serving.problems import KINDS, MEDIA_TYPE
from serving.upload import FIELD

_FILE = Schema(
    type=OpenAPIType.STRING, content_media_type="application/octet-stream", description="The encoded image."
)
_NUMBER = Schema(type=OpenAPIType.NUMBER, minimum=0, maximum=1)
_STRING = Schema(type=OpenAPIType.STRING)
_ANSWER = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "prediction": _STRING,
        "probability": _NUMBER,
        "probabilities": Schema(type=OpenAPIType.OBJECT, additional_properties=_NUMBER),
        "uncertain": Schema(type=OpenAPIType.BOOLEAN),
        "latency_ms": Schema(type=OpenAPIType.NUMBER),
        "model": Schema(type=OpenAPIType.OBJECT, properties={"name": _STRING, "version": _STRING}),
        "request_id": _STRING,
    },
)
_PROBLEM = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "type": _STRING,
        "title": _STRING,
        "status": Schema(type=OpenAPIType.INTEGER),
        "detail": _STRING,
        "request_id": _STRING,
    },
)
_FAULTS = (400, 401, 408, 413, 415, 422, 500, 503, 504)


def _request_body() -> RequestBody:
    form = Schema(type=OpenAPIType.OBJECT, properties={FIELD: _FILE}, required=[FIELD])
    return RequestBody(
        required=True,
        content={
            "multipart/form-data": OpenAPIMediaType(schema=form),
            "application/octet-stream": OpenAPIMediaType(schema=_FILE),
            "image/*": OpenAPIMediaType(schema=_FILE),
        },
    )


def _responses() -> dict[str, OpenAPIResponse]:
    answers = {
        "200": OpenAPIResponse(
            description="The prediction.",
            content={"application/json": OpenAPIMediaType(schema=_ANSWER)},
        )
    }
    for status in _FAULTS:
        titles = [kind.title for kind in KINDS.values() if kind.status == status]
        answers[str(status)] = OpenAPIResponse(
            description="; ".join(titles) + ".",
            content={MEDIA_TYPE: OpenAPIMediaType(schema=_PROBLEM)},
        )
    return answers


@dataclass
class PredictOperation(Operation):
    """The operation with its body and its answers written out."""

    request_body: RequestBody | None = field(default_factory=_request_body)

    def __post_init__(self) -> None:
        """Litestar fills in what it derives from the route; these two it cannot derive."""
        self.request_body = _request_body()
        self.responses = dict(_responses())
