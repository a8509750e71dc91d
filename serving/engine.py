"""A bounded queue and one worker thread a core, each computing one request on its own.

A request that cannot be answered in time is refused at once, one whose caller has gone away or
whose time has run out in the queue is not computed, and whatever a worker meets, its request is
answered and the worker goes on. The engine knows the handler's stages and no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch

from serving.errors import DeadlineExceeded, EngineError, ImageError, NotReady, Overloaded
from serving.handler import Answer, ImageClassifierHandler, Refusal
from serving.metrics import Metrics
from serving.preprocess import DecodedImage

_SMOOTHING: Final = 0.1
_FIRST_GUESS_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request that was computed."""

    answer: Answer | Refusal
    image: DecodedImage | ImageError
    seconds: dict[str, float]
    """Duration by stage: queue, decode, infer."""


@dataclass(slots=True, eq=False)
class _Job:
    body: bytes
    deadline: float
    queued_at: float
    future: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class Engine:
    """Run a handler's stages on worker threads behind a bounded queue."""

    def __init__(
        self,
        handler: ImageClassifierHandler,
        metrics: Metrics,
        *,
        workers: int,
        queue_size: int,
        deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler, self._metrics, self._clock = handler, metrics, clock
        self._queue_size, self._deadline_seconds = queue_size, deadline_seconds
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._in_flight = 0
        self._service_seconds = _FIRST_GUESS_SECONDS
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout_seconds: float) -> bool:
        """Take nothing more, compute what was accepted, stop; tell whether all workers ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        ends = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    async def submit(self, body: bytes, arrived: float) -> Result:
        """Queue one encoded image and wait for its result.

        Args:
            body: The encoded image.
            arrived: When the request arrived, by the engine's clock; its deadline counts from there.

        Raises:
            Overloaded: it cannot be answered in time, or the queue is full.
            DeadlineExceeded: it was accepted, and its time ran out.
            NotReady: the engine is closing.
        """
        job = _Job(
            body,
            arrived + self._deadline_seconds,
            self._clock(),
            asyncio.get_running_loop().create_future(),
        )
        with self._changed:
            self._admit(job)
            self._queue.append(job)
            self._metrics.queue_depth.set(len(self._queue))
            self._changed.notify()
        return await job.future

    def _admit(self, job: _Job) -> None:
        """Refuse a job that is hopeless. The lock is held."""
        if self._closing:
            raise NotReady("The service is shutting down.")
        ahead = len(self._queue) + self._in_flight
        wait = ahead / len(self._threads) * self._service_seconds
        late = job.queued_at + wait + self._service_seconds - job.deadline
        if len(self._queue) >= self._queue_size:
            self._metrics.rejected.labels("queue-full").inc()
            raise Overloaded(
                f"{len(self._queue)} requests are waiting already.",
                retry_after_seconds=max(late, wait),
                reason="queue-full",
            )
        if late > 0 and ahead:
            self._metrics.rejected.labels("too-slow").inc()
            raise Overloaded(
                f"The answer would take {wait + self._service_seconds:.1f} s, more than the deadline of "
                f"{self._deadline_seconds:g} s.",
                retry_after_seconds=late,
                reason="too-slow",
            )

    def _work(self) -> None:
        torch.set_num_threads(1)  # one photo a core beats all cores on one photo
        while (job := self._take()) is not None:
            try:
                outcome: Result | Exception = self._compute(job)
            except BaseException as error:  # noqa: BLE001 the worker lives on, and the request is answered
                outcome = error if isinstance(error, Exception) else EngineError(type(error).__name__)
            with self._changed:
                self._in_flight -= 1
                self._metrics.in_flight.set(self._in_flight)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                job.loop.call_soon_threadsafe(_settle, job.future, outcome)

    def _take(self) -> _Job | None:
        """The next job worth computing, or None when the engine is closed and empty."""
        with self._changed:
            while True:
                while not self._queue:
                    if self._closing:
                        return None
                    self._changed.wait()
                job = self._queue.popleft()
                self._metrics.queue_depth.set(len(self._queue))
                if job.future.cancelled():
                    self._metrics.rejected.labels("disconnected").inc()
                    continue
                self._in_flight += 1
                self._metrics.in_flight.set(self._in_flight)
                return job

    def _compute(self, job: _Job) -> Result:
        started = self._clock()
        if started > job.deadline:
            self._metrics.rejected.labels("deadline").inc()
            raise DeadlineExceeded(
                f"The request waited {started - job.queued_at:.2f} s, longer than its deadline of "
                f"{self._deadline_seconds:g} s."
            )
        batch = self._handler.preprocess([{"body": job.body}])
        decoded = self._clock()
        batch = self._handler.inference(batch)
        answer = self._handler.postprocess(batch)[0]
        done = self._clock()
        seconds = {"queue": started - job.queued_at, "decode": decoded - started, "infer": done - decoded}
        with self._changed:
            self._service_seconds += _SMOOTHING * (done - started - self._service_seconds)
        return Result(answer, batch.images[0], seconds)


def _settle(future: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
