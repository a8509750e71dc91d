"""What the routes that take a photo have in common when they answer: log line, timings and refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Response

from serving.contract.answer import Refusal
from serving.contract.errors import ServingError
from serving.http import problems
from serving.http.problems import Problem
from serving.http.request import ServiceRequest


class Refused(ServingError):
    """A worker took the photo, but the handler refused it."""

    def __init__(self, refusal: Refusal, seconds: Mapping[str, float], photo: bytes) -> None:
        super().__init__(refusal.detail)
        self.code, self.seconds, self.photo = refusal.error, seconds, photo


def refused(request: ServiceRequest, route: str, error: Exception) -> Response[Problem]:
    """Log and answer a request to a route that ended in `error`."""
    code = problems.code_of(error)
    response = problems.response(error, request.id)
    lines = log(request, route, response.status_code or 500, getattr(error, "photo", b""))
    if isinstance(error, Refused):
        response.headers["Server-Timing"] = server_timing(error.seconds)
        lines = lines.bind(**stages_ms(error.seconds))
    if isinstance(error, ServingError):
        lines.info("refused", outcome=code, detail=error.detail)
    else:
        lines.error("failed to answer", outcome=code, exc_info=error)
    return response


def log(request: ServiceRequest, route: str, status: int, photo: bytes = b"") -> Any:
    """The logger of one answer: which request, where, with what status, of how many bytes, by which model."""
    card = request.service.models.card
    return request.service.log.bind(
        request_id=request.id,
        **request.trace,
        route=route,
        status=status,
        **({"bytes": len(photo)} if photo else {}),
        **({"model_version": card.version} if card else {}),
    )


def stages_ms(seconds: Mapping[str, float]) -> dict[str, float]:
    """The duration of each stage for the log, in milliseconds."""
    return {f"{stage}_ms": round(1000 * value, 3) for stage, value in seconds.items()}


def server_timing(seconds: Mapping[str, float]) -> str:
    """The duration of each stage as the header Server-Timing."""
    return ", ".join(f"{stage};dur={1000 * value:.3f}" for stage, value in seconds.items())
