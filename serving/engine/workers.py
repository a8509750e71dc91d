"""A bounded queue and a few worker threads, each of which computes one micro-batch at a time.

Encoded photos in, `Result`s out; `serving.http.predict` submits them. On a CPU a batch is one photo; on
an accelerator a worker takes what is waiting, up to `max_batch`. `Admission` refuses at once what cannot be
answered in time. A request whose client disconnects or whose deadline passes while it is queued is not
computed. A worker survives any error and still answers its requests. The engine knows the handler's stages,
but no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.contract.answer import Answer, Refusal
from serving.contract.artifact import Artifact
from serving.contract.errors import DeadlineExceeded, EngineError, ImageError, NotReady, Overloaded
from serving.contract.preprocess import DecodedImage
from serving.engine.admission import Admission
from serving.runtime import torchscript
from serving.runtime.handler import ImageClassifierHandler
from serving.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one computed request."""

    decoded: DecodedImage | ImageError
    """Its pixels, or the error that replaces them."""
    answer: Answer | Refusal
    artifact: Artifact
    """The model that answered; after a reload, not necessarily the current one."""
    seconds: dict[str, float]
    """Duration by stage: queue, decode, infer; the last two are those of the whole batch."""


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
        max_batch: int = 1,
        max_delay_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler, self._metrics, self._clock = handler, metrics, clock
        self._admission = Admission(workers=workers, queue_size=queue_size, deadline_seconds=deadline_seconds)
        self._max_batch, self._max_delay_seconds = max_batch, max_delay_seconds
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._in_flight = 0
        self._busy_since: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def replace(self, handler: ImageClassifierHandler) -> None:
        """Let `handler` compute every batch taken from now on."""
        self._handler = handler

    @property
    def busy(self) -> bool:
        """Whether requests are waiting for a worker."""
        return bool(self._queue)

    def stuck_seconds(self) -> float:
        """How long the slowest worker has spent on its current batch; 0 if all are idle."""
        with self._changed:
            return max((self._clock() - since for since in self._busy_since.values()), default=0.0)

    def close(self, timeout_seconds: float) -> bool:
        """Accept nothing more, compute what was accepted, then stop; return whether all workers ended."""
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
            Overloaded: the queue is full, or the request cannot be answered in time.
            DeadlineExceeded: the request was accepted, but its time ran out.
            NotReady: the engine is closing.
        """
        job = _Job(
            body,
            arrived + self._admission.deadline_seconds,
            self._clock(),
            asyncio.get_running_loop().create_future(),
        )
        with self._changed:
            self._admit(job)
            self._queue.append(job)
            self._metrics.queue_depth.set(len(self._queue))
            self._changed.notify()
        expiry = job.loop.call_later(job.deadline - job.queued_at, self._expire, job)
        try:
            return await job.future
        except DeadlineExceeded:
            self._metrics.rejected.labels("deadline").inc()
            raise
        finally:
            expiry.cancel()

    def _expire(self, job: _Job) -> None:
        """Answer a job whose time is up, even if a worker is still computing it."""
        if not job.future.done():
            job.future.set_exception(self._admission.too_late())

    def _admit(self, job: _Job) -> None:
        """Refuse a job that cannot be answered in time. Call with the lock held."""
        if self._closing:
            raise NotReady("The service is shutting down. Retry later.")
        try:
            self._admission.check(
                waiting=len(self._queue),
                computing=self._in_flight,
                remaining_seconds=job.deadline - job.queued_at,
            )
        except Overloaded as refusal:
            self._metrics.rejected.labels(refusal.reason).inc()
            raise

    def _work(self) -> None:
        torchscript.one_thread()
        name = threading.current_thread().name
        while jobs := self._take(name):
            try:
                outcomes = self._compute_each(jobs)
            except BaseException as error:  # noqa: BLE001 the worker survives and answers
                outcomes = [EngineError(type(error).__name__)] * len(jobs)
            with self._changed:
                self._in_flight -= len(jobs)
                self._metrics.in_flight.set(self._in_flight)
                del self._busy_since[name]
            for job, outcome in zip(jobs, outcomes, strict=True):
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
                    job.loop.call_soon_threadsafe(_settle, job.future, outcome)

    def _take(self, name: str) -> list[_Job]:
        """The next jobs worth computing, at least one; none once the engine is closed and empty."""
        jobs: list[_Job] = []
        with self._changed:
            patience = 0.0
            while not jobs or (len(jobs) < self._max_batch and patience > self._clock()):
                while self._queue and len(jobs) < self._max_batch:
                    job = self._queue.popleft()
                    if not job.future.done():
                        jobs.append(job)
                    elif job.future.cancelled():
                        self._metrics.rejected.labels("disconnected").inc()
                if jobs and not patience:
                    patience = self._clock() + self._max_delay_seconds
                self._metrics.queue_depth.set(len(self._queue))
                if len(jobs) == self._max_batch or (jobs and self._max_delay_seconds == 0):
                    break
                if self._closing:
                    break
                self._changed.wait(max(0.0, patience - self._clock()) if jobs else None)
            self._in_flight += len(jobs)
            self._metrics.in_flight.set(self._in_flight)
            if jobs:
                self._busy_since[name] = self._clock()
        return jobs

    def _compute_each(self, jobs: list[_Job]) -> list[Result | Exception]:
        """One outcome per job; if a batch fails as a whole, each of its jobs is retried alone."""
        started = self._clock()
        timely = [job for job in jobs if started <= job.deadline]
        outcomes: dict[_Job, Result | Exception] = {
            job: self._admission.too_late() for job in jobs if started > job.deadline
        }
        try:
            outcomes.update(zip(timely, self._compute(timely, started), strict=True))
        except Exception as error:  # noqa: BLE001 (it is the answer to the request)
            if len(timely) == 1:
                return [outcomes.get(job, error) for job in jobs]
            for job in timely:
                outcomes[job] = self._compute_each([job])[0]
        return [outcomes[job] for job in jobs]

    def _compute(self, jobs: list[_Job], started: float) -> list[Result]:
        """Run the handler's stages on a batch."""
        if not jobs:
            return []
        handler = self._handler  # one for the whole batch: a reload swaps between batches
        batch = handler.preprocess([{"body": job.body} for job in jobs])
        decoded = self._clock()
        batch = handler.inference(batch)
        answers = handler.postprocess(batch)
        done = self._clock()
        stages = {"decode": decoded - started, "infer": done - decoded}
        with self._changed:
            self._admission.learn((done - started) / len(jobs))
        return [
            Result(image, answer, handler.artifact, {"queue": started - job.queued_at} | stages)
            for job, answer, image in zip(jobs, answers, batch.images, strict=True)
        ]


def _settle(future: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
