"""The parts of one process's service, and the order in which they start and stop.

`serving.http.app` builds it and adds the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from serving.contract.artifact import read_reference
from serving.contract.errors import FeedbackUnavailable, NotReady, ServingError
from serving.engine.budget import ByteBudget
from serving.engine.workers import Engine, EngineLimits
from serving.lifecycle import Lifecycle, State
from serving.models import Models, reason_of
from serving.observation import Observer
from serving.observers.feedback import Feedback
from serving.observers.review.queue import ReviewQueue
from serving.observers.shadow import Shadow
from serving.runtime.handler import ImageClassifierHandler
from serving.settings import Settings
from serving.telemetry.drift import DriftMonitor
from serving.telemetry.metrics import Metrics
from serving.telemetry.minutes import Minutes

if TYPE_CHECKING:
    from serving.telemetry.otlp import Tracing


class Service:
    """The parts of one process's service."""

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        on_failure: Callable[[], None],
        observers: Sequence[Observer],
        tracing: Tracing | None = None,
    ) -> None:
        self.settings, self.clock, self._on_failure, self._tracing = settings, clock, on_failure, tracing
        self._began = clock()
        self.stops_at = float("inf")
        """When the stop must be over, in monotonic seconds; the server sets it at the signal."""
        self.log = structlog.get_logger()
        self.lifecycle = Lifecycle()
        self.metrics = Metrics(registry)
        self.drift = DriftMonitor(registry, settings.drift_window)
        self.minutes = Minutes(self.metrics, self.drift, clock)
        self.models = Models(settings, self.lifecycle, self.metrics, self._serve)
        self.engine = Engine(
            self.models.handler,
            self.metrics,
            EngineLimits(
                workers=settings.workers,
                queue_size=settings.queue_size,
                deadline_seconds=settings.deadline_seconds,
                queue_seconds=settings.queue_seconds,
                memory_bytes=settings.max_decode_bytes,
                stuck_seconds=settings.stuck_seconds,
            ),
            max_batch=self.models.max_batch,
            max_delay_seconds=settings.max_delay_ms / 1000,
            clock=clock,
        )
        self.budget = ByteBudget(settings.max_held_bytes, clock)
        self.metrics.held_bytes.set_function(lambda: self.budget.held_bytes)
        self.feedback = self._new_feedback()
        self.review = self._new_review()
        self.shadow = self._new_shadow()
        optional = [observer for observer in (self.feedback, self.review, self.shadow) if observer]
        self.observers: list[Observer] = [self.metrics, self.drift, *optional, *observers]

    def _new_feedback(self) -> Feedback | None:
        settings = self.settings
        if not settings.feedback:
            return None
        return Feedback(
            Path(settings.feedback),
            keep_photos=settings.feedback_photos,
            days=settings.feedback_days,
            most_bytes=settings.feedback_max_bytes,
            on_drop=lambda reason, count: self.metrics.feedback_dropped.labels(reason).inc(count),
        )

    def _new_review(self) -> ReviewQueue | None:
        settings = self.settings
        if not settings.review:
            return None
        return ReviewQueue(
            Path(settings.review),
            self.metrics,
            days=settings.review_days,
            most_bytes=settings.review_max_bytes,
            share=settings.review_share,
        )

    def _new_shadow(self) -> Shadow | None:
        if not self.settings.shadow_model:
            return None
        keep = self.review.keep_disagreement if self.review else lambda _: None
        return Shadow(self.metrics, self.settings.shadow_share, lambda: self.engine.busy, keep)

    def _serve(self, handler: ImageClassifierHandler) -> None:
        """Let a verified model answer from now on."""
        self.engine.replace(handler)
        self.metrics.serve(handler.artifact)
        reference, ignored = read_reference(Path(self.settings.model), handler.artifact)
        if ignored:
            structlog.get_logger().warning("drift reference ignored", reason=ignored)
        self.drift.serve(handler.artifact, reference)

    @property
    def uptime_seconds(self) -> float:
        """Time since the service was created."""
        return self.clock() - self._began

    def require_ready(self) -> None:
        """Pass if there is a model to answer with.

        Raises:
            NotReady: the service is starting or has failed.
        """
        if self.lifecycle.state not in (State.READY, State.DRAINING):
            raise NotReady(
                f"The service is not ready ({self.lifecycle.state}): {self.lifecycle.reason.rstrip('.')}."
            )

    async def told_wrong(self, request_id: str) -> None:
        """Keep for review a photo whose answer a caller has called wrong, if the feedback keeps photos."""
        if self.review and self.feedback:
            with contextlib.suppress(ServingError):  # the label is stored, which is what the caller asked for
                stored = await self.feedback.call(self.feedback.find, request_id)
                if stored:
                    self.review.keep_told_wrong(stored)

    async def start(self) -> None:
        """Open the stores and load the model off the event loop; then become ready, or fail."""
        try:
            if self.review:
                await asyncio.to_thread(self.review.open)
            if self.feedback:
                await asyncio.to_thread(self.feedback.open)
                with contextlib.suppress(FeedbackUnavailable):  # a full disk, as the log says
                    self.metrics.labelled(*await asyncio.to_thread(self.feedback.accuracy))
            await self.models.load()
        except Exception as error:  # noqa: BLE001 (any error is reported, and the service fails)
            reason = reason_of(error)
            self.lifecycle.move(State.FAILED, reason)
            self.log.error("failed", reason=reason)  # noqa: TRY400 (a reason, not a trace)
            self._on_failure()
            return
        self.engine.start()
        if self.lifecycle.move(State.READY):
            self.metrics.ready.set(1)
            described = self.models.handler.describe_handle()
            self.log.info("ready", seconds=round(self.uptime_seconds, 3), **described)
        if self.shadow:
            await self.models.load_shadow(self.shadow)

    @property
    def draining(self) -> bool:
        """Whether the service is stopping; every answer then closes its connection."""
        return self.lifecycle.state is State.DRAINING

    def drain(self) -> None:
        """Report not ready; requests are still answered until the listener closes."""
        if self.lifecycle.move(State.DRAINING, "the service is shutting down"):
            self.metrics.ready.set(0)
            self.log.info("draining")

    async def stop(self) -> None:
        """Compute what was accepted, then end the threads, all by `stops_at`."""
        self.drain()
        drained = await asyncio.to_thread(self.engine.close, self._remaining_seconds())
        if self.shadow:
            await asyncio.to_thread(self.shadow.close, self._remaining_seconds())
        for store in (self.review, self.feedback):
            if store:
                await asyncio.to_thread(store.close, self._remaining_seconds())
        if self._tracing and not await asyncio.to_thread(self._tracing.close, self._remaining_seconds()):
            self.log.warning("spans are lost", reason="the collector did not take the last ones in time")
        self.log.info("stopped", drained=drained)

    def _remaining_seconds(self) -> float:
        return max(0.0, min(self.settings.drain_timeout_seconds, self.stops_at - time.monotonic()))
