"""A second artefact that answers part of the traffic in the background, for comparison only.

Observations in, agreement with the served model out, as metrics; `serving.models` loads the artefact. No
answer waits for it: a small queue drops what does not fit, nothing is taken while requests are waiting for a
worker, and its thread has the lowest priority.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Callable
from typing import Final

import structlog

from common.processor import yield_to_others
from serving.contract.answer import Answer, Refusal
from serving.observation import Observation
from serving.runtime.handler import ImageClassifierHandler
from serving.telemetry.metrics import Metrics

_MOST_WAITING: Final = 4


class Shadow:
    """One thread that computes again what the served model has answered."""

    def __init__(
        self,
        metrics: Metrics,
        share: float,
        is_busy: Callable[[], bool],
        on_disagreement: Callable[[Observation], None] = lambda _: None,
    ) -> None:
        """Take no photos until `start` provides a model.

        Args:
            metrics: Where the comparisons are counted.
            share: Share of the photos to take, 0 to 1.
            is_busy: Whether requests are waiting for a worker; if so, no photo is taken.
            on_disagreement: Called with each photo of which the two models predict different labels.
        """
        self._metrics, self._share, self._is_busy = metrics, share, is_busy
        self._on_disagreement = on_disagreement
        self._handler: ImageClassifierHandler | None = None
        self._waiting: queue.Queue[Observation | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)

    @property
    def started(self) -> bool:
        """Whether there is a model to compare with."""
        return self._handler is not None

    def start(self, handler: ImageClassifierHandler) -> None:
        """Start comparing with an initialised handler that has the labels of the served model."""
        loaded = handler.artifact
        self._metrics.shadow_model.info({"version": loaded.card.version, "sha256": loaded.sha256})
        self._handler = handler
        self._thread.start()

    def observe(self, observation: Observation) -> None:
        """Take a share of the answered photos; drop those that do not fit into the queue."""
        if not self.started or not isinstance(observation.answer, Answer) or random.random() >= self._share:
            return
        try:
            if not self._is_busy():
                self._waiting.put_nowait(observation)
                return
        except queue.Full:
            pass
        self._metrics.shadow.labels("dropped").inc()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Discard what is waiting and end the thread, if it was started."""
        if not self.started:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)
        self._thread.join(timeout_seconds)

    def _work(self) -> None:
        yield_to_others()
        while item := self._waiting.get():
            try:
                self._compare(item)
            except Exception:  # noqa: BLE001 (the shadow must not affect the service)
                structlog.get_logger().exception("the shadow failed")
                self._metrics.shadow.labels("failed").inc()

    def _compare(self, observation: Observation) -> None:
        assert self._handler is not None  # noqa: S101 (`start` sets it before the thread begins)
        other, answer = self._handler.handle([{"body": observation.encoded}])[0], observation.answer
        if isinstance(other, Refusal) or isinstance(answer, Refusal):
            self._metrics.shadow.labels("failed").inc()
            return
        served = answer.probabilities
        difference = max(abs(value - served[label]) for label, value in other.probabilities.items())
        agreed = other.prediction == answer.prediction
        self._metrics.shadow.labels("agreed" if agreed else "disagreed").inc()
        self._metrics.shadow_difference.observe(difference)
        if not agreed:
            self._on_disagreement(observation)
