"""Photos in, predictions out: each is computed, handed to the observers, counted and logged.

`serving.http.predict`, the page and the Open Inference Protocol share it; they differ in what they read and
in what they write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from litestar import Response
from msgspec import Meta

from serving.contract.answer import Answer, Refusal
from serving.contract.card import Card
from serving.contract.errors import ServingError
from serving.engine.job import Result
from serving.http import problems
from serving.http.answers import log_answer, log_refusal, photo_fields, server_timing, stages_ms
from serving.http.problems import Problem
from serving.http.request import ServiceRequest
from serving.observation import Observation, notify

T = TypeVar("T")
Probability = Annotated[float, Meta(ge=0, le=1)]
_UNANSWERED: Final = "unanswered"
"""Key, in the state of a request, of the number of its photos that have not been counted yet."""


class Model(msgspec.Struct, frozen=True):
    """The model that answered."""

    name: str
    version: str


class Prediction(msgspec.Struct, frozen=True):
    """The answer to one photo."""

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


class Refused(ServingError):
    """A worker took the photo, but the handler refused it."""

    def __init__(self, refusal: Refusal, seconds: Mapping[str, float], model_version: str) -> None:
        super().__init__(refusal.detail)
        self.code, self.seconds, self.model_version = refusal.error, seconds, model_version


def refuse(request: ServiceRequest, error: Exception) -> Response[Problem]:
    """Count, log and answer a request that ended in `error`; it counts for each of its photos.

    The line of the log says how many they are, unless one: none, if each has been counted by itself.
    """
    unanswered = request.scope["state"].get(_UNANSWERED, 1)
    request.service.metrics.requests.labels(problems.code_of(error)).inc(unanswered, request.exemplar)
    response = problems.response(error, request.id)
    if isinstance(error, Refused):
        response.headers["Server-Timing"] = server_timing(error.seconds)
    several = {"photos": unanswered} if unanswered != 1 else {}
    log_refusal(request, error, **_computed_fields(error), **several)
    return response


async def classify(
    request: ServiceRequest, encoded: bytes, arrived: float, top: int | None = None
) -> tuple[Prediction, Mapping[str, float]]:
    """Answer one photo.

    Args:
        request: It carries the photo.
        encoded: The photo.
        arrived: When the request was complete, by the service's clock.
        top: The answer lists so many of the most probable labels; None for all.

    Returns:
        The answer, and the duration of each stage in seconds.

    Raises:
        ServingError: the photo is refused, or the service cannot answer it now.
    """
    result = await request.while_connected(request.service.engine.submit(encoded, arrived))
    return _answered(request, request.id, encoded, arrived, result, top)


async def classify_all(
    request: ServiceRequest, photos: Sequence[bytes], arrived: float, top: int | None = None
) -> list[Prediction | Problem]:
    """Answer several photos, which are admitted together; a photo that is refused alone has a problem.

    The id of each is that of the request, with a dot and its number from 1.

    Args:
        request: It carries the photos.
        photos: The encoded images.
        arrived: When the request was complete, by the service's clock.
        top: Each answer lists so many of the most probable labels; None for all.

    Returns:
        An answer or a problem for each, in order.

    Raises:
        ServingError: the service cannot answer the request now, or its caller has gone.
    """
    state = request.scope["state"]
    state[_UNANSWERED] = len(photos)

    async def one(identity: str, encoded: bytes, waiting: Awaitable[Result]) -> Prediction | Problem:
        try:
            found: Prediction | Problem
            found, _ = _answered(request, identity, encoded, arrived, await waiting, top)
        except Exception as error:  # noqa: BLE001 (it is the answer to this photo)
            found = _refused(request, identity, encoded, error)
        state[_UNANSWERED] -= 1
        return found

    results = request.service.engine.submit_all(photos, arrived)
    answers = [
        one(f"{request.id}.{number}", encoded, waiting)
        for number, (encoded, waiting) in enumerate(zip(photos, results, strict=True), 1)
    ]
    return await request.while_connected(_gathered(answers))


async def _gathered(answers: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    return [*await asyncio.gather(*answers)]


def _answered(
    request: ServiceRequest, identity: str, encoded: bytes, arrived: float, result: Result, top: int | None
) -> tuple[Prediction, Mapping[str, float]]:
    """Hand a computed photo to the observers; count, log and return its answer.

    Raises:
        Refused: the handler refused the photo.
    """
    service = request.service
    answer, artifact, seconds = result.answer, result.artifact, result.seconds
    seen = Observation(identity, encoded, result.decoded, answer, artifact, seconds, result.quantities)
    notify(service.observers, seen)
    if isinstance(answer, Refusal):
        raise Refused(answer, seconds, artifact.card.version)
    latency_seconds = service.clock() - arrived
    service.metrics.latency.observe(latency_seconds, request.exemplar)
    service.metrics.requests.labels("ok").inc()
    prediction = _prediction(answer, artifact.card, 1000 * latency_seconds, identity, top)
    log_answer(
        request,
        "predicted",
        request_id=identity,
        body_bytes=len(encoded),
        prediction=prediction.prediction,
        probability=round(prediction.probability, 6),
        uncertain=prediction.uncertain,
        latency_ms=prediction.latency_ms,
        **photo_fields(result.decoded, artifact),
        **stages_ms(seconds),
    )
    return prediction, seconds


def _refused(request: ServiceRequest, identity: str, encoded: bytes, error: Exception) -> Problem:
    """Count, log and return the problem of one photo of several."""
    request.service.metrics.requests.labels(problems.code_of(error)).inc(exemplar=request.exemplar)
    log_refusal(request, error, request_id=identity, body_bytes=len(encoded), **_computed_fields(error))
    return problems.problem(error, identity)


def _computed_fields(error: Exception) -> dict[str, Any]:
    """What the log says of a photo that a worker took and the handler refused."""
    if not isinstance(error, Refused):
        return {}
    return {"model_version": error.model_version, **stages_ms(error.seconds)}


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
