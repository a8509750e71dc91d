"""The HTTP face of the service: routes, and nothing that a route could leave to another module.

Everything comes in through `create_app`; nothing is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.static_files import create_static_files_router
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from serving import problems
from serving.apidoc import PredictOperation
from serving.engine import Engine, Result
from serving.errors import ArtifactError, NotReady, ServingError, Unauthorized
from serving.handler import Answer, ImageClassifierHandler, LocalContext, choose_device
from serving.lifecycle import Lifecycle, State
from serving.metrics import Metrics
from serving.preprocess import DecodedImage, Limits
from serving.settings import Settings
from serving.upload import CallerGone, extract_image, read_body

_WEB: Final = Path(__file__).parent / "web"
_SAMPLES: Final = 255.0
_GPU_BATCH: Final = 16


class Service:
    """Handler, engine, metrics and state of one process."""

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        on_failure: Callable[[], None],
    ) -> None:
        self.settings, self.clock, self._on_failure = settings, clock, on_failure
        self.log = structlog.get_logger()
        self.lifecycle = Lifecycle()
        self.metrics = Metrics(registry)
        self._device = choose_device(settings.device)
        self._max_batch = settings.max_batch or (1 if self._device == "cpu" else _GPU_BATCH)
        self._reloading = asyncio.Lock()
        self.handler = self._new_handler()
        self.engine = Engine(
            self.handler,
            self.metrics,
            workers=settings.workers,
            queue_size=settings.queue_size,
            deadline_seconds=settings.deadline_seconds,
            max_batch=self._max_batch,
            max_delay_seconds=settings.max_delay_ms / 1000,
            clock=clock,
        )
        self._began = clock()

    def _new_handler(self) -> ImageClassifierHandler:
        settings = self.settings
        limits = Limits(settings.max_body_bytes, settings.max_pixels, settings.max_side)
        return ImageClassifierHandler(limits, device=self._device, max_batch=self._max_batch)

    @property
    def uptime_seconds(self) -> float:
        """Since the process set the service up."""
        return self.clock() - self._began

    async def load(self) -> None:
        """Load and prove the model beside the event loop, then become ready; or fail and say why."""
        try:
            await asyncio.to_thread(self.handler.initialize, LocalContext.for_file(self.settings.model_path))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is reported and the service fails)
            reason = _reason(error)
            self.lifecycle.move(State.FAILED, reason)
            self.log.error("failed", reason=reason)  # noqa: TRY400 (a reason, not a trace)
            self._on_failure()
            return
        self.engine.start()
        self.metrics.serve(self.handler.artifact)
        if self.lifecycle.move(State.READY):
            self.metrics.ready.set(1)
            self.log.info("ready", seconds=round(self.uptime_seconds, 3), **self.handler.describe_handle())

    async def reload(self) -> bool:
        """Load and prove the model file beside the present one, then swap; tell whether it was swapped.

        Until the new one is proven, and if it cannot be, the present one serves on.
        """
        async with self._reloading:
            if self.lifecycle.state is not State.READY:
                self.log.warning("reload ignored", state=str(self.lifecycle.state))
                return False
            handler = self._new_handler()
            try:
                await asyncio.to_thread(handler.initialize, LocalContext.for_file(self.settings.model_path))
            except Exception as error:  # noqa: BLE001 (whatever it is, it is reported and the old model stays)
                self.metrics.reloads.labels("failed").inc()
                self.log.error("reload failed", reason=_reason(error))  # noqa: TRY400 (a reason, not a trace)
                return False
            self.handler = handler
            self.engine.replace(handler)
            self.metrics.serve(handler.artifact)
            self.metrics.reloads.labels("ok").inc()
            self.log.info("reloaded", **handler.describe_handle())
            return True

    def drain(self) -> None:
        """Stop announcing readiness; what arrives is still answered until the listener closes."""
        if self.lifecycle.move(State.DRAINING, "the service is shutting down"):
            self.metrics.ready.set(0)
            self.log.info("draining")

    async def stop(self) -> None:
        """Compute what was accepted and end the workers."""
        self.drain()
        drained = await asyncio.to_thread(self.engine.close, self.settings.drain_timeout_seconds)
        self.log.info("stopped", drained=drained)

    async def predict(self, request: Request[Any, Any, Any]) -> tuple[Result, float]:
        """Read, queue and compute one request; return its result and the time it took.

        Raises:
            ServingError: whatever is wrong with the request or the moment.
        """
        arrived = self.clock()
        self.authorise(request)
        body = await read_body(
            request.receive, self.settings.max_body_bytes, request.headers.get("content-length")
        )
        if self.lifecycle.state not in (State.READY, State.DRAINING):
            raise NotReady(f"The service is {self.lifecycle.state}: {self.lifecycle.reason}.")
        image = extract_image(*request.content_type, body, self.settings.max_parts)
        result = await _while_connected(self.engine.submit(image, arrived), request)
        self._observe(image, result)
        return result, self.clock() - arrived

    def authorise(self, request: Request[Any, Any, Any]) -> None:
        """Compare the key in constant time, if the service has one.

        Raises:
            Unauthorized: the key is missing or wrong.
        """
        if self.settings.api_key:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            shown = request.headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
            if not hmac.compare_digest(shown.encode(), self.settings.api_key.encode()):
                raise Unauthorized('Show the key as "Authorization: Bearer KEY" or "X-API-Key: KEY".')

    def _observe(self, image: bytes, result: Result) -> None:
        """Count a computed request."""
        for stage, seconds in result.seconds.items():
            self.metrics.stage.labels(stage).observe(seconds)
        self.metrics.input_bytes.observe(len(image))
        if isinstance(result.image, DecodedImage):
            self.metrics.input_side.observe(max(result.image.width, result.image.height))
            self.metrics.input_brightness.observe(float(result.image.pixels.mean()) / _SAMPLES)
        if "prediction" in result.answer:
            self.metrics.predictions.labels(result.answer["prediction"]).inc()
            self.metrics.probability.observe(result.answer["probability"])
            if result.answer["uncertain"]:
                self.metrics.uncertain.inc()


def _reason(error: Exception) -> str:
    return error.detail if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"


async def _while_connected(work: Coroutine[Any, Any, Result], request: Request[Any, Any, Any]) -> Result:
    """Await `work`; if the caller goes away first, cancel it.

    Raises:
        CallerGone: the connection closed before the answer was there.
    """
    computing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(request.receive())  # the body is read: next comes the disconnect
    try:
        await asyncio.wait({computing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not computing.done():
            raise CallerGone("The caller closed the connection before the answer was ready.")
        return await computing
    finally:
        computing.cancel()
        watching.cancel()


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
    latency_ms: float
    """From the arrival of the request to this answer, in the service."""
    model: Model
    request_id: str


@post("/predict", status_code=200, operation_class=PredictOperation)
async def predict(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Classify one photo: multipart field `file`, or the encoded image as the body."""
    service: Service = request.app.state.service
    request_id = problems.request_id(request)
    log = service.log.bind(request_id=request_id, **problems.trace_context(request))
    try:
        result, seconds = await service.predict(request)
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
    if "error" in result.answer:
        code, detail = result.answer["error"], result.answer["detail"]
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
        **result.answer,
        latency_ms=latency_ms,
        model=Model(card.name, card.version),
        request_id=request_id,
    )
    return Response(msgspec.json.encode(answer), media_type=MediaType.JSON, headers=headers)


def _brief(answer: Answer) -> dict[str, Any]:
    return {
        "prediction": answer["prediction"],
        "probability": round(answer["probability"], 6),
        "uncertain": answer["uncertain"],
    }


@get(["/health", "/health/ready"])
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
        content["lineage"] = card.lineage
    return Response(
        msgspec.json.encode(content),
        media_type=MediaType.JSON,
        status_code=200 if state is State.READY else 503,
        headers={"Cache-Control": "no-store"},
    )


@get("/health/live")
async def live(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    """200 as long as the process is worth keeping; 503 when a worker does not come back."""
    service: Service = request.app.state.service
    stuck = service.engine.stuck_seconds()
    if stuck > service.settings.stuck_seconds:
        content = {"status": "stuck", "reason": f"a worker has been at one batch for {stuck:.0f} s"}
        return Response(content, status_code=503)
    return Response({"status": "alive"})


@get("/metrics")
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
async def index() -> Response[bytes]:
    """The page where a person drops a photo."""
    return Response(
        await asyncio.to_thread((_WEB / "index.html").read_bytes),
        media_type=MediaType.HTML,
        headers={
            "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'"
        },
    )


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

    app = Litestar(
        route_handlers=[
            predict,
            health,
            live,
            metrics,
            index,
            create_static_files_router(path="/web", directories=[_WEB], include_in_schema=False),
        ],
        lifespan=[lifespan],
        exception_handlers={Exception: problems.handle_exception},
        openapi_config=OpenAPIConfig(
            title="Cats vs Dogs classifier",
            version="1",
            path="/schema",
            render_plugins=[JsonRenderPlugin()],
        ),
        request_max_body_size=None,  # `read_body` enforces the setting, whatever the headers say
        logging_config=None,
    )
    app.state.service = service
    return app
