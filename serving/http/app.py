"""The HTTP face of the service: routes, and nothing that a route could leave to another module.

Everything comes in through `create_app`; nothing is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.static_files import create_static_files_router
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from serving.contract.answer import Answer, Refusal
from serving.contract.errors import ServingError
from serving.http import pages, problems
from serving.http.apidoc import (
    DriftOperation,
    ExplainOperation,
    FeedbackOperation,
    HealthOperation,
    MetricsOperation,
    PredictOperation,
)
from serving.lifecycle import State
from serving.service import Service
from serving.settings import Settings


class Model(msgspec.Struct, frozen=True):
    """Which model answered."""

    name: str
    version: str


class Prediction(msgspec.Struct, frozen=True):
    """The answer to `POST /predict`."""

    prediction: str
    """The most probable label."""
    probability: float
    """Its calibrated probability, 0 to 1."""
    probabilities: dict[str, float]
    """Probability of each label; they sum to 1."""
    uncertain: bool
    """The probability is below the model's abstain threshold."""
    unfamiliar: bool | None
    """The photo looks like nothing in the training photos; null where the model cannot tell."""
    latency_ms: float
    """From the arrival of the request to this answer, in the service."""
    model: Model
    request_id: str


@post("/predict", status_code=200, operation_class=PredictOperation)
async def predict(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Classify one photo: multipart field `file`, or the encoded image as the body."""
    return await _answer(request)


async def _answer(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answer one photo, and count and log it."""
    service: Service = request.app.state.service
    request_id = problems.request_id(request)
    log = service.log.bind(request_id=request_id, **problems.trace_context(request))
    try:
        result, seconds = await service.predict(request, request_id)
    except ServingError as error:
        code = problems.code_of(error)
        service.metrics.requests.labels(code).inc()
        log.info("refused", outcome=code, detail=error.detail)
        return problems.response(error, request_id)
    except Exception as error:
        service.metrics.requests.labels("internal").inc()
        log.exception("failed to answer", outcome="internal")
        return problems.response(error, request_id)
    service.metrics.latency.observe(seconds)
    stages_ms = {f"{stage}_ms": round(1000 * value, 3) for stage, value in result.seconds.items()}
    timing = ", ".join(f"{stage};dur={1000 * value:.3f}" for stage, value in result.seconds.items())
    headers = {"X-Request-ID": request_id, "Server-Timing": timing}
    if isinstance(result.answer, Refusal):
        code, detail = result.answer.error, result.answer.detail
        service.metrics.requests.labels(code).inc()
        log.info("refused", outcome=code, detail=detail, **stages_ms)
        return problems.build(code, detail, request_id, headers)
    service.metrics.requests.labels("ok").inc()
    latency_ms = round(1000 * seconds, 3)
    log.info(
        "predicted", outcome="ok", **_brief(result.answer), latency_ms=latency_ms,
        **stages_ms,
    )  # fmt: skip
    card = result.handler.artifact.card
    answer = Prediction(
        prediction=result.answer.prediction,
        probability=result.answer.probability,
        probabilities=result.answer.probabilities,
        uncertain=result.answer.uncertain,
        unfamiliar=result.answer.unfamiliar,
        latency_ms=latency_ms,
        model=Model(card.name, card.version),
        request_id=request_id,
    )
    return Response(msgspec.json.encode(answer), media_type=MediaType.JSON, headers=headers)


def _brief(answer: Answer) -> dict[str, Any]:
    return {
        "prediction": answer.prediction,
        "probability": round(answer.probability, 6),
        "uncertain": answer.uncertain,
    }


@post("/explain", status_code=200, operation_class=ExplainOperation)
async def explain(request: Request[Any, Any, Any]) -> Response[bytes]:
    """A PNG of the photo: vermilion where it speaks for the answer, blue where against it."""
    service: Service = request.app.state.service
    label, picture = await service.explain(request)
    return Response(picture, media_type="image/png", headers={"X-Prediction": label})


@post("/feedback", status_code=200, operation_class=FeedbackOperation)
async def feedback(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Say what was right: the request id of an answer, and the label."""
    service: Service = request.app.state.service
    content = {"was_right": await service.label(request)}
    return Response(msgspec.json.encode(content), media_type=MediaType.JSON)


@get("/drift", operation_class=DriftOperation)
async def drift(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The latest photos by bin beside those of validation, and how far the two are apart."""
    service: Service = request.app.state.service
    service.authorise(request)
    content = service.drift.export() if service.drift else {"photos": 0, "quantities": {}}
    return Response(msgspec.json.encode(content), media_type=MediaType.JSON)


@get(["/health", "/health/ready"], operation_class=HealthOperation)
async def health(request: Request[Any, Any, Any]) -> Response[bytes]:
    """200 when the service takes requests; 503 with its state and the reason otherwise."""
    service: Service = request.app.state.service
    state = service.lifecycle.state
    content: dict[str, Any] = {
        "status": "ok" if state is State.READY else str(state),
        "uptime_seconds": round(service.uptime_seconds, 3),
    }
    if state is not State.READY:
        content["reason"] = service.lifecycle.reason
    else:
        artifact = service.handler.artifact
        card = artifact.card
        content["model"] = {"name": card.name, "version": card.version, "sha256": artifact.sha256}
        content["metrics"] = card.metrics
        content["lineage"] = card.lineage
    if service.settings.deployment:
        content["deployment"] = service.settings.deployment
    return Response(
        msgspec.json.encode(content),
        media_type=MediaType.JSON,
        status_code=200 if state is State.READY else 503,
        headers={"Cache-Control": "no-store"},
    )


@get("/health/live", operation_class=HealthOperation)
async def live(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    """200 as long as the process is worth keeping; 503 when a worker does not come back."""
    service: Service = request.app.state.service
    stuck = service.engine.stuck_seconds()
    if stuck > service.settings.stuck_seconds:
        content = {"status": "stuck", "reason": f"a worker has been at one batch for {stuck:.0f} s"}
        return Response(content, status_code=503)
    return Response({"status": "alive"})


@get("/metrics", operation_class=MetricsOperation)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Prometheus text, OpenMetrics or a JSON summary, by the Accept header."""
    service: Service = request.app.state.service
    service.authorise(request)
    accept = request.headers.get("accept", "")
    if "application/json" in accept:
        return Response(msgspec.json.encode(service.metrics.summary()), media_type=MediaType.JSON)
    encode, content_type = choose_encoder(accept)
    return Response(encode(service.metrics.registry), headers={"Content-Type": content_type})


@get("/", include_in_schema=False)
async def index(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page where a person shows a photo."""
    return await asyncio.to_thread(pages.index, request.app.state.service.card)


@post("/", include_in_schema=False, status_code=200)
async def index_answer(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The same page with the answer on it, for a browser that runs no script."""
    response = await _answer(request)
    content: dict[str, Any] = msgspec.json.decode(response.content)
    status = response.status_code or 200
    return await asyncio.to_thread(pages.index, request.app.state.service.card, content, status)


@get("/status", include_in_schema=False)
async def status() -> Response[bytes]:
    """The metrics for a person."""
    return await asyncio.to_thread(pages.status)


def create_app(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_failure: Callable[[], None] = lambda: None,
) -> Litestar:
    """Build the service.

    Args:
        settings: Where the model is and what a request may cost.
        registry: Where the metrics go; a new one if none is given.
        clock: Monotonic seconds.
        on_failure: Called when the model cannot be loaded or proven.
    """
    service = Service(settings, registry or CollectorRegistry(), clock, on_failure)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        loading = asyncio.create_task(service.load())
        try:
            yield
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            await service.stop()

    swagger = pages.swagger_files()
    app = Litestar(
        route_handlers=[
            predict,
            explain,
            feedback,
            drift,
            health,
            live,
            metrics,
            index,
            index_answer,
            status,
            create_static_files_router(path="/web", directories=[pages.WEB], include_in_schema=False),
            *(
                [
                    create_static_files_router(
                        path="/web/swagger", directories=[swagger], include_in_schema=False
                    )
                ]
                if swagger
                else []
            ),
        ],
        lifespan=[lifespan],
        exception_handlers={Exception: problems.handle_exception},
        openapi_config=OpenAPIConfig(
            title="Cats vs Dogs classifier",
            version="1",
            path="/schema",
            render_plugins=[JsonRenderPlugin(), pages.Viewer()],
        ),
        request_max_body_size=None,  # `read_body` enforces the setting, whatever the headers say
        logging_config=None,
    )
    app.state.service = service
    return app
