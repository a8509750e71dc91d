"""What OpenAPI says of the routes: their bodies and answers, which Litestar cannot derive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)

from serving.http.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX
from serving.http.upload import FIELD

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
        "unfamiliar": Schema(type=[OpenAPIType.BOOLEAN, OpenAPIType.NULL]),
        "latency_ms": Schema(type=OpenAPIType.NUMBER),
        "model": Schema(type=OpenAPIType.OBJECT, properties={"name": _STRING, "version": _STRING}),
        "request_id": _STRING,
    },
)
ANSWER_EXAMPLE: Final = {
    "prediction": "cat",
    "probability": 0.9995,
    "probabilities": {"cat": 0.9995, "dog": 0.0005},
    "uncertain": False,
    "unfamiliar": False,
    "latency_ms": 15.1,
    "model": {"name": "cats-dogs", "version": "2026.11.25-0ace1447"},
    "request_id": "0c6f3a5e5ad54a0d9f3f3a1d1c1b2a90",
}
"""What the released model says of `deploy/smoke/cat.jpg`; a test holds it to that."""
DETAILS: Final = {
    "missing-file": (
        'There is no multipart field "file" (found \'other\'). Send the image as curl -F "file=@dog.jpg".'
    ),
    "unauthorized": 'Show the key as "Authorization: Bearer KEY" or "X-API-Key: KEY".',
    "unsupported-image": (
        "The bytes are not an image of an accepted format (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF)."
    ),
    "empty": "The image is empty (0 bytes).",
    "broken-image": "The JPEG image cannot be decoded: it is truncated or corrupt.",
    "feedback-off": "This service keeps no answers to label: SERVING_FEEDBACK is not set.",
}
"""What the service says of the commonest faults; a test holds it to that."""
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
_HEALTH = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "status": _STRING,
        "reason": _STRING,
        "uptime_seconds": Schema(type=OpenAPIType.NUMBER),
        "model": Schema(type=OpenAPIType.OBJECT),
        "metrics": Schema(type=OpenAPIType.OBJECT, description="Figures on the test split."),
        "lineage": Schema(type=OpenAPIType.OBJECT),
    },
    required=["status"],
)
_COUNT = Schema(type=OpenAPIType.INTEGER, minimum=0)
_SUMMARY = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "request_count": _COUNT,
        "average_latency_ms": Schema(type=OpenAPIType.NUMBER, minimum=0),
        "outcomes": Schema(type=OpenAPIType.OBJECT, additional_properties=_COUNT),
    },
)
_DRIFT = Schema(
    type=OpenAPIType.OBJECT,
    properties={"photos": _COUNT, "quantities": Schema(type=OpenAPIType.OBJECT)},
    required=["photos", "quantities"],
)
_EXPOSITIONS = ("text/plain", "application/openmetrics-text")
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


def _json(description: str, schema: Schema, example: object = None) -> OpenAPIResponse:
    media = OpenAPIMediaType(schema=schema, example=example)
    return OpenAPIResponse(description, content={"application/json": media})


def _problem(status: int) -> OpenAPIResponse:
    kinds = {code: kind for code, kind in KINDS.items() if kind.status == status}
    examples: dict[str, Example | Reference] = {
        code: Example(
            summary=kind.title,
            value={
                "type": TYPE_PREFIX + code,
                "title": kind.title,
                "status": status,
                "detail": DETAILS.get(code, f"{kind.title}."),
                "request_id": ANSWER_EXAMPLE["request_id"],
            },
        )
        for code, kind in kinds.items()
    }
    content = {MEDIA_TYPE: OpenAPIMediaType(schema=_PROBLEM, examples=examples)}
    return OpenAPIResponse("; ".join(kind.title for kind in kinds.values()) + ".", content=content)


@dataclass
class PredictOperation(Operation):
    """`POST /predict`."""

    def __post_init__(self) -> None:
        """Write out what comes in and what goes out."""
        self.request_body = _request_body()
        self.responses = {"200": _json("The prediction.", _ANSWER, ANSWER_EXAMPLE)}
        self.responses |= {str(status): _problem(status) for status in _FAULTS}


@dataclass
class ExplainOperation(Operation):
    """`POST /explain`."""

    def __post_init__(self) -> None:
        """Write out what comes in and what goes out."""
        self.request_body = _request_body()
        picture = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, content_media_type="image/png"))
        self.responses = {"200": OpenAPIResponse("The heat map.", content={"image/png": picture})}
        self.responses |= {str(status): _problem(status) for status in (*_FAULTS[:-1], 501)}


@dataclass
class FeedbackOperation(Operation):
    """`POST /feedback`."""

    def __post_init__(self) -> None:
        """Write out what comes in and what goes out."""
        said = Schema(
            type=OpenAPIType.OBJECT,
            properties={"request_id": _STRING, "label": _STRING},
            required=["request_id", "label"],
        )
        heard = Schema(type=OpenAPIType.OBJECT, properties={"was_right": Schema(type=OpenAPIType.BOOLEAN)})
        self.request_body = RequestBody(
            required=True, content={"application/json": OpenAPIMediaType(schema=said)}
        )
        self.responses = {"200": _json("Stored.", heard)}
        self.responses |= {str(s): _problem(s) for s in (400, 401, 404, 408, 413, 422, 503)}


@dataclass
class DriftOperation(Operation):
    """`GET /drift`."""

    def __post_init__(self) -> None:
        """Write out what goes out."""
        self.responses = {"200": _json("The window.", _DRIFT), "401": _problem(401)}


@dataclass
class HealthOperation(Operation):
    """`GET /health` and its two relatives."""

    def __post_init__(self) -> None:
        """Write out what goes out."""
        self.responses = {
            "200": _json("It serves.", _HEALTH),
            "503": _json("It does not serve, and why.", _HEALTH),
        }


@dataclass
class MetricsOperation(Operation):
    """`GET /metrics`."""

    def __post_init__(self) -> None:
        """Write out what goes out."""
        content = {kind: OpenAPIMediaType(schema=_STRING) for kind in _EXPOSITIONS}
        content["application/json"] = OpenAPIMediaType(schema=_SUMMARY)
        self.responses = {
            "200": OpenAPIResponse("Prometheus text, OpenMetrics or a summary.", content=content),
            "401": _problem(401),
        }
