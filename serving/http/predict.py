"""`POST /predict`: one photo in, its `Prediction` or a problem out; each is counted and logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter
from litestar.types import Receive, Scope, Send
from msgspec import Meta

from serving.contract.answer import Answer, Refusal
from serving.contract.card import Card
from serving.contract.errors import ServingError
from serving.http import problems
from serving.http.answers import log_answer, log_refusal, photo_fields, server_timing, stages_ms
from serving.http.authorisation import check_key, require_key
from serving.http.openapi import KEY
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling
from serving.http.upload import UploadOperation
from serving.observation import Observation, notify

Probability = Annotated[float, Meta(ge=0, le=1)]
Top = Annotated[
    int | None,
    QueryParameter(ge=1, description="List the probabilities of so many labels, the most probable first."),
]

PATH: Final = "/predict"
_OTHER_ROUTES: Final = frozenset(
    {
        *("malformed-feedback", "unknown-request", "unknown-label", "feedback-off", "feedback-unavailable"),
        *("not-explainable", "not-found", "method-not-allowed", "uri-too-long", "head-too-large"),
        *("head-timeout", "http-version"),
    }
)
OUTCOMES: Final = ("ok", *(code for code in problems.KINDS if code not in _OTHER_ROUTES))
"""What becomes of a request to /predict: an answer, or one of these problems."""


class Model(msgspec.Struct, frozen=True):
    """The model that answered."""

    name: str
    version: str


class Prediction(msgspec.Struct, frozen=True):
    """The answer to `POST /predict`."""

    prediction: str
    """The most probable label."""
    probability: Probability
    """Its calibrated probability, 0 to 1."""
    probabilities: dict[str, Probability]
    """Probability of each label, in the model's order; they sum to 1. With `top`, of the most probable alone,
    in falling order."""
    uncertain: bool
    """The probability is below the model's abstain threshold."""
    unfamiliar: bool | None
    """The photo looks unlike any training photo; null if the model cannot tell."""
    latency_ms: float
    """Time in the service, from the complete request to this answer."""
    model: Model
    request_id: str


EXAMPLE: Final = Prediction(
    prediction="cat",
    probability=0.9995,
    probabilities={"cat": 0.9995, "dog": 0.0005},
    uncertain=False,
    unfamiliar=False,
    latency_ms=15.1,
    model=Model("cats-dogs", "2026.11.27-0ace1447"),
    request_id=problems.EXAMPLE_ID,
)
"""The released model's answer to `deploy/smoke/cat.jpg`, as a test checks."""


class Refused(ServingError):
    """A worker took the photo, but the handler refused it."""

    def __init__(self, refusal: Refusal, seconds: Mapping[str, float], model_version: str) -> None:
        super().__init__(refusal.detail)
        self.code, self.seconds, self.model_version = refusal.error, seconds, model_version


def refuse(request: ServiceRequest, error: Exception) -> Response[Problem]:
    """Count, log and answer a request that ended in `error`."""
    code = problems.code_of(error)
    request.service.metrics.requests.labels(code).inc(exemplar=request.exemplar)
    response = problems.response(error, request.id)
    fields: dict[str, Any] = {}
    if isinstance(error, Refused):
        response.headers["Server-Timing"] = server_timing(error.seconds)
        fields = {"model_version": error.model_version, **stages_ms(error.seconds)}
    log_refusal(request, error, **fields)
    return response


@post(
    PATH,
    status_code=200,
    guards=[require_key],
    exception_handlers=handling(Exception, refuse),
    operation_class=UploadOperation,
    operation_id="predict",
    security=KEY,
    responses={
        200: ResponseSpec(
            Prediction,
            generate_examples=False,
            description="The prediction.",
            examples=[Example(id="cat", value=msgspec.to_builtins(EXAMPLE))],
        ),
        **problems.documented((400, 401, 408, 413, 415, 422, 500, 503, 504)),
    },
)
async def predict(request: ServiceRequest, top: Top = None) -> Response[Prediction]:
    """Classify one photo: multipart field `file`, or the encoded image as the body."""
    prediction, seconds = await classify(request, top)
    headers = {"Server-Timing": server_timing(seconds)}
    return Response(prediction, headers=headers)


async def predict_directly(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `POST /predict` without a query, as `predict` does, but past Litestar's layers.

    They take a third of what the event loop does for a request (`docs/decisions.md`), and a photo waits for
    the event loop twice. `serving.http.gate` calls it.
    """
    scope["path_template"] = PATH
    request = ServiceRequest(scope, receive, send)
    try:
        check_key(request)
        prediction, seconds = await classify(request)
    except Exception as error:  # noqa: BLE001 (it is answered, counted and logged)
        refusal = refuse(request, error).to_asgi_response(app=None, request=request)
        await refusal(scope, receive, send)
        return
    body = msgspec.json.encode(prediction)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"server-timing", server_timing(seconds).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def classify(request: ServiceRequest, top: int | None = None) -> tuple[Prediction, Mapping[str, float]]:
    """Answer one photo: receive it, compute it, hand it to the observers.

    Args:
        request: It carries the photo.
        top: The answer lists so many of the most probable labels; None for all.

    Returns:
        The answer, and the duration of each stage in seconds.

    Raises:
        ServingError: the request is invalid, or the service cannot answer it now.
    """
    service = request.service
    encoded, arrived = await request.photo()
    result = await request.while_connected(service.engine.submit(encoded, arrived))
    answer, artifact, seconds = result.answer, result.artifact, result.seconds
    seen = Observation(request.id, encoded, result.decoded, answer, artifact, seconds, result.quantities)
    notify(service.observers, seen)
    if isinstance(answer, Refusal):
        raise Refused(answer, seconds, artifact.card.version)
    latency_seconds = service.clock() - arrived
    service.metrics.latency.observe(latency_seconds, request.exemplar)
    service.metrics.requests.labels("ok").inc()
    prediction = _prediction(answer, artifact.card, 1000 * latency_seconds, request.id, top)
    log_answer(
        request,
        "predicted",
        prediction=prediction.prediction,
        probability=round(prediction.probability, 6),
        uncertain=prediction.uncertain,
        latency_ms=prediction.latency_ms,
        **photo_fields(result.decoded, artifact),
        **stages_ms(seconds),
    )
    return prediction, seconds


def _prediction(
    answer: Answer, card: Card, latency_ms: float, request_id: str, top: int | None
) -> Prediction:
    listed = answer.probabilities
    if top is not None:
        listed = dict(sorted(listed.items(), key=lambda item: item[1], reverse=True)[:top])
    return Prediction(
        prediction=answer.prediction,
        probability=answer.probability,
        probabilities=listed,
        uncertain=answer.uncertain,
        unfamiliar=answer.unfamiliar,
        latency_ms=round(latency_ms, 3),
        model=Model(card.name, card.version),
        request_id=request_id,
    )
