"""`/review`: the photos of `serving.observers.review` in, people's verdicts out, for page and programs.

The prediction is in no answer before the verdict, so that the label is the person's own. Only pages of the
service itself may ask, whatever `SERVING_CORS_ORIGINS` allows elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Annotated, Any, Final

from litestar import Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException
from litestar.handlers import BaseRouteHandler
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from serving.contract.errors import MalformedReview, ReviewOff, ReviewUnavailable, UnknownLabel
from serving.contract.structure.sniff import format_of
from serving.http import problems, rendering
from serving.http.answers import log_answer
from serving.http.authorisation import require_key, require_same_origin
from serving.http.openapi import KEY
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling
from serving.http.review.records import (
    NAME,
    NextPhoto,
    Progress,
    Revealed,
    Undone,
    UndoRequest,
    VerdictRequest,
)
from serving.observers.export import ExportError
from serving.observers.review import strata, verdicts
from serving.observers.review.export import pack
from serving.observers.review.queue import ReviewQueue

PREFIX: Final = "/review"
_PRIVATE: Final = {"Cache-Control": "no-store"}
_SAFE: Final = _PRIVATE | {
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Content-Disposition": "attachment",
}
"""The bytes are a stranger's: a browser shows them as a picture or not at all."""
_HOW: Final = (
    'Send JSON as {"request_id": "…", "reviewer": "…", "verdict": "label", "label": "…"}. Without a label '
    'the verdict is "neither" or "cannot-tell"; an undo has the reviewer alone.'
)
_CHUNK_BYTES: Final = 1 << 20
Reviewer = Annotated[str, QueryParameter(pattern=NAME, description="The name of the person who asks.")]
PhotoId = Annotated[
    str, PathParameter(pattern=r"^[A-Za-z0-9._-]{1,90}$", description="The request id of the answer.")
]


async def _require_queue(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    if connection.app.state.service.review is None:
        raise ReviewOff("This service keeps no photos for review: SERVING_REVIEW is not set.")


def _malformed(request: ServiceRequest, _: Exception) -> Response[Problem]:
    return problems.response(MalformedReview(_HOW), request.id)


_GUARDS: Final = [_require_queue, require_same_origin, require_key]
_COMMON: Final = (400, 401, 403, 404, 503)


def _queue(request: ServiceRequest) -> ReviewQueue:
    queue = request.service.review
    assert queue is not None  # noqa: S101 (the guard ensures it)
    return queue


@get(PREFIX, include_in_schema=False, guards=[_require_queue])
async def page(request: ServiceRequest) -> Response[str]:
    """The page on which a person labels; it asks for the key."""
    return await asyncio.to_thread(rendering.page, "review.html", request)


@get(
    f"{PREFIX}/next",
    operation_id="getNextPhotoForReview",
    security=KEY,
    response_description="The photo, and how far the review is.",
    guards=_GUARDS,
    responses=problems.documented(_COMMON),
)
async def next_photo(request: ServiceRequest, reviewer: Reviewer) -> Response[NextPhoto]:
    """Which photo a person sees next; some come as the second view of a photo that somebody has answered."""
    request.service.require_ready()
    queue, labels = _queue(request), request.service.models.handler.artifact.card.labels

    def look() -> NextPhoto:
        with queue.transaction() as transaction:
            agreement = verdicts.agreement(transaction)
            return NextPhoto(
                verdicts.next_photo(transaction, reviewer),
                verdicts.classes(transaction) or labels,
                verdicts.left_for(transaction, reviewer),
                verdicts.given_by(transaction, reviewer),
                agreement.photos,
                agreement.kappa,
            )

    return Response(await queue.call(look), headers=_PRIVATE)


@get(
    f"{PREFIX}/photos/{{request_id:str}}",
    operation_id="getPhotoForReview",
    security=KEY,
    media_type="image/*",
    response_description="The photo as it was sent.",
    guards=_GUARDS,
    responses=problems.documented(_COMMON),
)
async def photo(request: ServiceRequest, request_id: PhotoId) -> Response[bytes]:
    """The photo of an answer, with the media type that its bytes have."""
    queue = _queue(request)

    def look() -> bytes:
        with queue.transaction() as transaction:
            return verdicts.photo(transaction, request_id)

    found = await queue.call(look)
    return Response(found, media_type=f"image/{format_of(found).lower()}", headers=_SAFE)


@post(
    f"{PREFIX}/verdicts",
    status_code=200,
    operation_id="giveVerdict",
    security=KEY,
    response_description="Stored.",
    guards=_GUARDS,
    exception_handlers=handling(ClientException, _malformed),
    responses=problems.documented((*_COMMON, 408, 413, 422)),
)
async def give(request: ServiceRequest, data: JSONBody[VerdictRequest]) -> Response[Revealed]:
    """Say what a photo shows; once more, by the same person, replaces what was said."""
    request.service.require_ready()
    labels = request.service.models.handler.artifact.card.labels
    if (data.verdict == verdicts.LABEL) != (data.label is not None):
        raise MalformedReview(_HOW)
    queue = _queue(request)

    def store() -> verdicts.Revealed:
        with queue.transaction() as transaction:
            _check_label(data.label, verdicts.classes(transaction) or labels)
            revealed = verdicts.give(
                transaction, data.request_id, data.reviewer, data.verdict, data.label, time.time()
            )
            queue.count_waiting(transaction)
            return revealed

    found = await queue.call(store)
    log_answer(request, "reviewed", answered_request_id=data.request_id, verdict=data.verdict)
    return Response(Revealed(*found), headers=_PRIVATE)


def _check_label(label: str | None, labels: list[str]) -> None:
    if label is not None and label not in labels:
        raise UnknownLabel(
            f"The label must be one of {', '.join(labels)}. A photo of another class is neither: a new class "
            "is a decision about all photos (docs/loop.md)."
        )


@post(
    f"{PREFIX}/undo",
    status_code=200,
    operation_id="undoVerdict",
    security=KEY,
    response_description="Taken back.",
    guards=_GUARDS,
    exception_handlers=handling(ClientException, _malformed),
    responses=problems.documented((*_COMMON, 408, 409, 413)),
)
async def undo(request: ServiceRequest, data: JSONBody[UndoRequest]) -> Response[Undone]:
    """Take back the last verdict of a person."""
    queue = _queue(request)

    def take_back() -> Undone:
        with queue.transaction() as transaction:
            request_id = verdicts.undo(transaction, data.reviewer)
            queue.count_waiting(transaction)
            return Undone(request_id)

    found = await queue.call(take_back)
    log_answer(request, "undone", answered_request_id=found.request_id)
    return Response(found, headers=_PRIVATE)


@get(
    f"{PREFIX}/progress",
    operation_id="getReviewProgress",
    security=KEY,
    response_description="The counts.",
    guards=_GUARDS,
    responses=problems.documented(_COMMON),
)
async def progress(request: ServiceRequest) -> Response[Progress]:
    """How far the review is, how far two people agree, and the counts behind the accuracy of all answers."""
    queue = _queue(request)

    def look() -> Progress:
        with queue.transaction() as transaction:
            agreement, waiting = verdicts.agreement(transaction), verdicts.waiting(transaction)
            return Progress(waiting, *agreement, strata.strata(transaction))

    return Response(await queue.call(look), headers=_PRIVATE)


@get(
    f"{PREFIX}/export",
    operation_id="exportReview",
    security=KEY,
    media_type="application/zip",
    response_description="The zip, with its length: what ends before is not all.",
    guards=_GUARDS,
    responses=problems.documented(_COMMON),
)
async def export(request: ServiceRequest) -> Stream:
    """The labelled photos as a zip of what `python -m serving export-review` writes."""
    archive, size_bytes = await _queue(request).call(_packed, Path(request.service.settings.review))

    async def content() -> AsyncIterator[bytes]:
        with archive:
            while chunk := await asyncio.to_thread(archive.read, _CHUNK_BYTES):
                yield chunk

    log_answer(request, "exported", answer_bytes=size_bytes)
    length = {"Content-Length": str(size_bytes), "Content-Disposition": 'attachment; filename="review.zip"'}
    return Stream(content(), media_type="application/zip", headers=_PRIVATE | length)


def _packed(database: Path) -> tuple[IO[bytes], int]:
    """The zip and its size, in a nameless file next to the database, so that no kill leaves it behind."""
    try:
        with contextlib.ExitStack() as on_failure:
            archive = on_failure.enter_context(tempfile.TemporaryFile(dir=database.parent))
            pack(database, archive)
            size_bytes = archive.tell()
            archive.seek(0)
            on_failure.pop_all()  # the answer closes it
    except (ExportError, OSError) as error:
        raise ReviewUnavailable("The photos for review cannot be exported now. Retry later.") from error
    return archive, size_bytes


@delete(
    f"{PREFIX}/photos/{{request_id:str}}",
    operation_id="deletePhotosOfRequest",
    security=KEY,
    response_description="Deleted, or never kept.",
    guards=_GUARDS,
    responses=problems.documented(_COMMON),
)
async def forget(request: ServiceRequest, request_id: PhotoId) -> None:
    """Delete what is stored of a request, for review and as feedback; its photos are then in no file.

    Photos that look the same are deleted with it, and all verdicts on them.
    """
    service = request.service
    if service.feedback:
        await service.feedback.call(service.feedback.delete, request_id)
    queue = _queue(request)
    await queue.call(queue.delete, request_id)
    log_answer(request, "deleted", answered_request_id=request_id)
