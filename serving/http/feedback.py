"""`POST /feedback`: an answer's request id and the right label in, whether the answer was right out."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, post
from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException
from litestar.handlers import BaseRouteHandler
from litestar.params import JSONBody

from serving.contract.errors import FeedbackOff, MalformedFeedback
from serving.http import problems
from serving.http.answers import log_answer
from serving.http.authorisation import require_key
from serving.http.openapi import KEY
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling


class FeedbackRequest(msgspec.Struct, frozen=True):
    """The body of `POST /feedback`."""

    request_id: str
    """The request id of the answer, as returned by `/predict`."""
    label: str
    """The right label: one of the model's."""


class FeedbackReceipt(msgspec.Struct, frozen=True):
    """The answer to `POST /feedback`: the label is on disk."""

    was_right: bool
    """Whether the answer had this label."""


async def _require_store(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    if connection.app.state.service.feedback is None:
        raise FeedbackOff("This service stores no answers to label: SERVING_FEEDBACK is not set.")


def _malformed(request: ServiceRequest, _: Exception) -> Response[Problem]:
    return problems.response(MalformedFeedback('Send JSON: {"request_id": "…", "label": "…"}.'), request.id)


@post(
    "/feedback",
    status_code=200,
    operation_id="sendFeedback",
    security=KEY,
    response_description="Stored.",
    guards=[_require_store, require_key],
    exception_handlers=handling(ClientException, _malformed),
    responses=problems.documented((400, 401, 404, 408, 413, 422, 503)),
)
async def feedback(request: ServiceRequest, data: JSONBody[FeedbackRequest]) -> FeedbackReceipt:
    """Report the right label of an answer, by its request id."""
    service = request.service
    service.require_ready()
    store = service.feedback
    assert store is not None  # noqa: S101 (the guard ensures it)
    labels = service.models.handler.artifact.card.labels
    right, accuracy = await store.receive(data.request_id, data.label, labels)
    service.metrics.feedback.labels("right" if right else "wrong").inc()
    if not right:
        await service.told_wrong(data.request_id)
    if accuracy:
        service.metrics.labelled(*accuracy)
    log_answer(request, "labelled", answered_request_id=data.request_id, label=data.label, was_right=right)
    return FeedbackReceipt(was_right=right)
