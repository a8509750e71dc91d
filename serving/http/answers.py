"""What the answers of the routes have in common: the route they are counted under, and a line of the log.

`serving.http.gate` counts them, `serving.http.app` passes `answer_error` to Litestar; the routes log with
`log_answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from litestar import Litestar, Response
from litestar.types import HTTPScope

from serving.contract.artifact import Artifact
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage
from serving.http import problems
from serving.http.kinds import KINDS
from serving.http.problems import Problem
from serving.http.request import ServiceRequest
from serving.telemetry.metrics import OTHER

OUTCOME: Final = "outcome"
"""Key, in the state of a request, of what the log says became of it."""


def route_of(scope: HTTPScope, known: frozenset[str]) -> str:
    """The route as it is declared, whatever the caller put into the path."""
    template = scope.get("path_template")
    if template:
        return str(template)
    path = scope["path"].rstrip("/") or "/"
    return path if path in known else OTHER


def routes_of(app: Litestar) -> list[tuple[str, str]]:
    """Each route of the app with each of its methods."""
    return [
        (route.path_format, method)
        for route in app.routes
        for method in sorted(getattr(route, "methods", ()))
        if method != "OPTIONS"
    ]


def answer_error(request: ServiceRequest, error: Exception) -> Response[Problem]:
    """Litestar's hook for every exception that no route handled; it logs those with status 5xx."""
    answer = problems.response(error, request.id)
    if KINDS[problems.code_of(error)].status >= 500:
        log_refusal(request, error)
    return answer


def log_error(request: ServiceRequest, error: Exception, **more: Any) -> None:
    """Log an error that nobody foresaw, with its trace, of which the caller sees nothing."""
    code = problems.code_of(error)
    status = KINDS[code].status
    request.scope["state"][OUTCOME] = code
    fields = {**_request_fields(request), **more}
    request.service.log.error("failed to answer", **fields, status=status, outcome=code, exc_info=error)


def log_refusal(request: ServiceRequest, error: Exception, **more: Any) -> None:
    """Log an error that a route answered: as a refusal if it was foreseen, else with its trace."""
    code = problems.code_of(error)
    if code == "internal":
        log_error(request, error, **more)
        return
    request.scope["state"][OUTCOME] = code
    if error.__cause__ is not None:
        more["cause"] = repr(error.__cause__)
    fields = {**_request_fields(request), **more}
    status, detail = KINDS[code].status, problems.detail_of(error)
    request.service.log.info("refused", **fields, status=status, outcome=code, detail=detail)


def log_answer(request: ServiceRequest, event: str, **more: Any) -> None:
    """Log an answer with status 200; `more` are the route's own fields."""
    request.scope["state"][OUTCOME] = "ok"
    request.service.log.info(event, **{**_request_fields(request), **more}, status=200, outcome="ok")


def _request_fields(request: ServiceRequest) -> dict[str, Any]:
    """What is known of any request: its id, trace, route and the size of its body, if it was read."""
    fields = {"request_id": request.id, **request.trace, "route": request.scope.get("path_template", OTHER)}
    size = request.body_bytes
    return fields if size is None else {**fields, "body_bytes": size}


def photo_fields(decoded: DecodedImage | ImageError, artifact: Artifact) -> dict[str, Any]:
    """What is known of a photo that a model saw, as fields of the log."""
    version = {"model_version": artifact.card.version}
    if isinstance(decoded, ImageError):
        return version
    return {"format": decoded.format, "width": decoded.width, "height": decoded.height, **version}


def stages_ms(seconds: Mapping[str, float]) -> dict[str, float]:
    """The duration of each stage, as fields of the log."""
    return {f"{stage}_ms": round(1000 * value, 3) for stage, value in seconds.items()}


def server_timing(seconds: Mapping[str, float]) -> str:
    """The duration of each stage as the header Server-Timing."""
    return ", ".join(f"{stage};dur={1000 * value:.3f}" for stage, value in seconds.items())
