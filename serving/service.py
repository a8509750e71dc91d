"""One process's service: handler, engine, metrics and state, and the way of a request through them.

It knows requests and no routes; `serving.http.app` gives it its addresses.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from litestar import Request
from prometheus_client import CollectorRegistry

from serving.contract.answer import Answer
from serving.contract.card import Card
from serving.contract.errors import ArtifactError, FeedbackOff, MalformedFeedback, NotReady, Unauthorized
from serving.contract.preprocess import DecodedImage, Limits
from serving.contract.reference import Window, measure
from serving.engine.workers import Engine, Result
from serving.http.explain import Explainer
from serving.http.upload import CallerGone, extract_image, read_body
from serving.lifecycle import Lifecycle, State
from serving.observers.feedback import Feedback
from serving.observers.shadow import Shadow, load_shadow
from serving.runtime.handler import ImageClassifierHandler, LocalContext, choose_device
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_GPU_BATCH: Final = 16


class Said(msgspec.Struct, frozen=True):
    """The body of `POST /feedback`."""

    request_id: str
    label: str


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
        self._explainer = Explainer()
        self.drift: Window | None = None
        self.shadow: Shadow | None = None
        self.feedback: Feedback | None = None
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
    def card(self) -> Card | None:
        """Of the model that is served; None while there is none."""
        ready = self.lifecycle.state in (State.READY, State.DRAINING)
        return self.handler.artifact.card if ready else None

    @property
    def uptime_seconds(self) -> float:
        """Since the process set the service up."""
        return self.clock() - self._began

    async def load(self) -> None:
        """Load and prove the model beside the event loop, then become ready; or fail and say why."""
        try:
            await asyncio.to_thread(self.handler.initialize, LocalContext.for_file(self.settings.model_path))
            self.feedback = await asyncio.to_thread(self._open_feedback)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is reported and the service fails)
            reason = _reason(error)
            self.lifecycle.move(State.FAILED, reason)
            self.log.error("failed", reason=reason)  # noqa: TRY400 (a reason, not a trace)
            self._on_failure()
            return
        self.engine.start()
        self._announce(self.handler)
        if self.feedback:
            self._tell_accuracy()
        if self.lifecycle.move(State.READY):
            self.metrics.ready.set(1)
            self.log.info("ready", seconds=round(self.uptime_seconds, 3), **self.handler.describe_handle())
        if self.settings.shadow_model:
            await self._load_shadow()

    def _open_feedback(self) -> Feedback | None:
        settings = self.settings
        if not settings.feedback:
            return None
        self.metrics.feedback_dropped.set_function(lambda: self.feedback.dropped if self.feedback else 0)
        return Feedback(
            Path(settings.feedback),
            keep_photos=settings.feedback_photos,
            days=settings.feedback_days,
            most_bytes=settings.feedback_max_bytes,
        )

    def _tell_accuracy(self) -> None:
        assert self.feedback is not None  # noqa: S101 (both callers have seen to it)
        right, count = self.feedback.accuracy()
        self.metrics.feedback_window.set(count)
        self.metrics.feedback_accuracy.set(right / count if count else math.nan)

    async def label(self, request: Request[Any, Any, Any]) -> bool:
        """Store what a caller says was right; whether the answer was.

        Raises:
            ServingError: whatever is wrong with the request.
        """
        if self.feedback is None:
            raise FeedbackOff("This service keeps no answers to label: SERVING_FEEDBACK is not set.")
        body, _ = await self._read(request)
        try:
            said = msgspec.json.decode(body, type=Said)
        except msgspec.DecodeError as error:
            raise MalformedFeedback('Send JSON: {"request_id": "…", "label": "…"}.') from error
        labels = self.handler.artifact.card.labels
        right = await asyncio.to_thread(self.feedback.label, said.request_id, said.label, labels)
        self.metrics.feedback.labels("right" if right else "wrong").inc()
        await asyncio.to_thread(self._tell_accuracy)
        return right

    async def _load_shadow(self) -> None:
        """Load the second artefact; if it cannot be, the service serves on without it."""
        handler = self._new_handler()
        try:
            await asyncio.to_thread(load_shadow, self.settings.shadow_model, self.handler, handler)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is reported)
            self.metrics.shadow.labels("failed").inc()
            self.log.error("no shadow", reason=_reason(error))  # noqa: TRY400 (a reason, not a trace)
            return
        self.shadow = Shadow(handler, self.metrics, self.settings.shadow_share)
        self.shadow.start()
        self.log.info("shadow", **handler.describe_handle())

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
            self._announce(handler)
            self.metrics.reloads.labels("ok").inc()
            self.log.info("reloaded", **handler.describe_handle())
            return True

    def _announce(self, handler: ImageClassifierHandler) -> None:
        """Begin to count for the model that answers from now on."""
        loaded = handler.artifact
        self.metrics.serve(loaded)
        self.drift = (
            Window(loaded.card.reference, self.settings.drift_window) if loaded.card.reference else None
        )
        self.metrics.drift.window = self.drift

    def drain(self) -> None:
        """Stop announcing readiness; what arrives is still answered until the listener closes."""
        if self.lifecycle.move(State.DRAINING, "the service is shutting down"):
            self.metrics.ready.set(0)
            self.log.info("draining")

    async def stop(self) -> None:
        """Compute what was accepted and end the workers."""
        self.drain()
        if self.shadow:
            await asyncio.to_thread(self.shadow.close)
        drained = await asyncio.to_thread(self.engine.close, self.settings.drain_timeout_seconds)
        if self.feedback:
            await asyncio.to_thread(self.feedback.close)
        self.log.info("stopped", drained=drained)

    async def predict(self, request: Request[Any, Any, Any], request_id: str) -> tuple[Result, float]:
        """Read, queue and compute one request; return its result and the time it took once complete.

        Raises:
            ServingError: whatever is wrong with the request or the moment.
        """
        body, arrived = await self._read(request)
        image = extract_image(*request.content_type, body, self.settings.max_parts)
        result = await _while_connected(self.engine.submit(image, arrived), request)
        self._observe(image, result, request_id)
        return result, self.clock() - arrived

    async def explain(self, request: Request[Any, Any, Any]) -> tuple[str, bytes]:
        """The predicted label of one photo, and its heat map as a PNG.

        Raises:
            ServingError: whatever is wrong with the request or the moment.
        """
        body, _ = await self._read(request)
        image = extract_image(*request.content_type, body, self.settings.max_parts)
        return await self._explainer.explain(self.handler, image)

    async def _read(self, request: Request[Any, Any, Any]) -> tuple[bytes, float]:
        """The body of a request that may be answered, and when it was complete."""
        self.authorise(request)
        body = await read_body(
            request.receive,
            self.settings.max_body_bytes,
            self.settings.upload_seconds,
            request.headers.get("content-length"),
        )
        arrived = self.clock()  # the caller's uplink is not ours to answer for
        if self.lifecycle.state not in (State.READY, State.DRAINING):
            raise NotReady(f"The service is {self.lifecycle.state}: {self.lifecycle.reason}.")
        return body, arrived

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

    def _observe(self, image: bytes, result: Result, request_id: str) -> None:
        """Count a computed request."""
        for stage, seconds in result.seconds.items():
            self.metrics.stages[stage].observe(seconds)
        self.metrics.input_bytes.observe(len(image))
        if not isinstance(result.image, DecodedImage) or not isinstance(result.answer, Answer):
            return
        photo, answer = result.image, result.answer
        values = measure(
            photo.pixels,
            photo.width,
            photo.height,
            list(answer.probabilities.values()),
            answer.feature_distance,
        )
        self.metrics.answered(answer, values)
        if self.drift and result.handler is self.handler:
            self.drift.add(values)
        if self.feedback:
            loaded = result.handler.artifact
            self.feedback.remember(
                request_id,
                answer.prediction,
                answer.probability,
                loaded.card.version,
                loaded.sha256,
                image,
            )
        if self.shadow:
            self.shadow.offer(image, answer, busy=self.engine.busy)


def _reason(error: Exception) -> str:
    return error.detail if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"


async def _while_connected(work: Coroutine[Any, Any, Result], request: Request[Any, Any, Any]) -> Result:
    """Await `work`; if the caller goes away first, cancel it.

    Raises:
        CallerGone: the connection closed before the answer was there.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a coroutine that runs has one)
    waiting = True

    def leave(_: asyncio.Future[Any]) -> None:
        if waiting:
            task.cancel()

    watching = asyncio.ensure_future(request.receive())  # the body is read: next comes the disconnect
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if watching.done() and task.uncancel() == 0:
            raise CallerGone("The caller closed the connection before the answer was ready.") from None
        raise
    finally:
        waiting = False
        watching.cancel()
