"""A second artefact that answers some of the traffic in the background, and is only compared.

No answer waits for it: photos are offered after the caller has its answer, a small queue drops what does not
fit, nothing is taken while requests wait for a worker, and its thread has the lowest priority.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import sys
import threading
from pathlib import Path
from typing import Final

import structlog
import torch

from serving.contract.answer import Answer, Refusal
from serving.contract.errors import ArtifactError
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.telemetry.metrics import Metrics

_MOST_WAITING: Final = 4
_LOWEST_PRIORITY: Final = 19


class Shadow:
    """One thread that computes what the served model has answered once more."""

    def __init__(self, handler: ImageClassifierHandler, metrics: Metrics, share: float) -> None:
        """`handler` is initialised, and answers the labels of the served model; `share` is from 0 to 1."""
        self._handler, self._metrics, self._share = handler, metrics, share
        self._waiting: queue.Queue[tuple[bytes, Answer] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        metrics.shadow_model.info(
            {"version": handler.artifact.card.version, "sha256": handler.artifact.sha256}
        )

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def offer(self, body: bytes, answer: Answer, *, busy: bool) -> None:
        """Take a share of the photos that were answered; drop what there is no room for.

        Args:
            body: The encoded photo.
            answer: The served model's.
            busy: Whether requests wait for a worker.
        """
        if random.random() >= self._share:
            return
        try:
            if not busy:
                self._waiting.put_nowait((body, answer))
                return
        except queue.Full:
            pass
        self._metrics.shadow.labels("dropped").inc()

    def close(self) -> None:
        """Forget what waits and end the thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        torch.set_num_threads(1)
        if sys.platform == "linux":  # there a thread has a priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while item := self._waiting.get():
            try:
                self._compare(*item)
            except Exception:  # noqa: BLE001 (whatever the second model meets is its own affair)
                structlog.get_logger().exception("the shadow failed")
                self._metrics.shadow.labels("failed").inc()

    def _compare(self, body: bytes, answer: Answer) -> None:
        other = self._handler.handle([{"body": body}])[0]
        if isinstance(other, Refusal):
            self._metrics.shadow.labels("failed").inc()
            return
        served = answer.probabilities
        far = max(abs(value - served[label]) for label, value in other.probabilities.items())
        agreed = other.prediction == answer.prediction
        self._metrics.shadow.labels("agreed" if agreed else "disagreed").inc()
        self._metrics.shadow_difference.observe(far)


def load_shadow(model: str, served: ImageClassifierHandler, handler: ImageClassifierHandler) -> None:
    """Initialise `handler` with the artefact at `model`.

    Raises:
        ArtifactError: it cannot be loaded or proven, or knows other classes than the served one.
    """
    handler.initialize(LocalContext.for_file(Path(model)))
    labels = handler.artifact.card.labels
    if set(labels) != set(served.artifact.card.labels):
        raise ArtifactError(f"The shadow knows other classes than the served model: {', '.join(labels)}.")
