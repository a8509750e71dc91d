"""The HTML pages for a person: form and answers, how the model was measured, the status, each problem."""

from __future__ import annotations

import asyncio
from typing import Final

from litestar import Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from serving.http import rendering, wording
from serving.http.authorisation import require_key
from serving.http.classify import classify, refuse
from serving.http.examples import examples_for
from serving.http.kinds import KINDS
from serving.http.request import ServiceRequest, handling

_NAMES: Final = {
    "macro_accuracy": "mean recall of the classes",
    "lowest_recall": "lowest recall of a class",
    "top5_accuracy": "label among the five most probable",
    "log_loss": "log loss, nats",
    "brier": "Brier score, summed over the classes",
    "ece": "calibration error (ECE)",
    "roc_auc": "area under the ROC curve",
}
"""What the figures of a card are called, where that is not their name."""


@get("/", include_in_schema=False)
async def index(request: ServiceRequest) -> Response[str]:
    """The page on which a person uploads a photo."""
    return await asyncio.to_thread(_index, request)


def _refuse_on_page(request: ServiceRequest, error: Exception) -> Response[str]:
    """The page with a problem, which is counted and logged like any other."""
    refusal = refuse(request, error)
    page = _index(request, wording.Failed(refusal.content), refusal.status_code or 200)
    page.headers.update(refusal.headers)
    return page


@post(
    "/",
    include_in_schema=False,
    status_code=200,
    guards=[require_key],
    exception_handlers=handling(Exception, _refuse_on_page),
)
async def index_answer(request: ServiceRequest) -> Response[str]:
    """The page with the answer; its own scripts take the answer out of it, so nothing else renders one."""
    photo, arrived = await request.photo()
    prediction, seconds = await classify(request, photo, arrived, wording.MOST_LISTED)
    card = request.service.models.handler.artifact.card
    answer = wording.answered(prediction, seconds, card)
    return await asyncio.to_thread(_index, request, answer)


def _index(
    request: ServiceRequest, answer: wording.Answered | wording.Failed | None = None, status: int = 200
) -> Response[str]:
    card = request.service.models.card
    labels = card.labels if card else []
    question = wording.question(labels) if labels else wording.GENERAL
    return rendering.page(
        "index.html",
        request,
        status,
        card=card,
        accuracy=card.metrics.get("accuracy") if card else None,
        question=question,
        classes=wording.listed(labels, "and") if labels and question == wording.GENERAL else "",
        examples=examples_for(labels),
        answer=answer,
        share=wording.share,
    )


@get("/model", include_in_schema=False)
async def model(request: ServiceRequest) -> Response[str]:
    """How the served model was measured, and what its answers mean: its card in words."""
    card = request.service.models.card
    labels = card.labels if card else []
    return await asyncio.to_thread(
        rendering.page,
        "model.html",
        request,
        card=card,
        accuracy=card.metrics.get("accuracy") if card else None,
        ece=card.metrics.get("ece") if card else None,
        classes=wording.listed(labels, "and") if labels else "",
        neither="neither" if len(labels) == 2 else "none of its classes",
        names=_NAMES,
        share=wording.share,
    )


@get("/problems/{code:str}", include_in_schema=False)
async def problem(request: ServiceRequest, code: FromPath[str]) -> Response[str]:
    """What one kind of problem means: every error refers to it by its type."""
    kind = KINDS.get(code)
    if kind is None:
        raise NotFoundException
    return await asyncio.to_thread(rendering.page, "problem.html", request, kind=kind, code=code)


@get("/status", include_in_schema=False)
async def status(request: ServiceRequest) -> Response[str]:
    """The page that shows the latest minutes to a person."""
    return await asyncio.to_thread(rendering.page, "status.html", request)
