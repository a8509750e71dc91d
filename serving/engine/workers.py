"""Encoded photos in, `Result`s out, by threads; `predict` and `explain` in `serving.http` submit them.

There are two lanes. Ordinary photos are computed by one thread more than there are cores. A photo whose
structure tells that its decode is long or large is moved to the second lane, whose few threads have it
decoded by processes of the lowest priority (`serving.engine.decoder`), which stand still while ordinary
photos take all cores; `compute` waits for free cores too. Neither delays an ordinary photo. On a CPU a
batch is one photo; on an accelerator a worker takes what is waiting, up to `max_batch`. A request whose
client disconnects or whose deadline passes while it is queued is not computed. The engine knows the
handler's stages, but no HTTP.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from serving.contract.answer import Refusal
from serving.contract.errors import DeadlineExceeded, ImageError, Overloaded
from serving.contract.preprocess import DecodedImage, Limits
from serving.contract.structure.model import Structure
from serving.engine.admission import ByAverage, ByCost
from serving.engine.decoder import Decoder
from serving.engine.job import FOLLOWED, Job, Result
from serving.engine.lane import MOVED, Lane
from serving.observation import measure_photo
from serving.runtime.handler import ImageClassifierHandler
from serving.runtime.item import Item
from serving.runtime.memory import Trimmer
from serving.telemetry.metrics import Metrics

T = TypeVar("T")
_ORDINARY_SECONDS: Final = 0.1
"""A decode that may take longer is computed in the second lane: three of them would delay the others' p99."""
_ORDINARY_BYTES: Final = 40_000_000
_HOPEFUL: Final = 0.5
"""Share of a large photo's estimate that must remain of its time; with less, it is not begun."""
_MOST_LARGE: Final = 16
"""Large photos that may wait; each holds its encoded bytes."""
_WATCH_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much the engine does at a time, and for how long."""

    workers: int
    """Threads for ordinary photos; a quarter as many, at least one, compute the large ones."""
    queue_size: int
    """Requests that may wait."""
    deadline_seconds: float
    """Longest time from a complete request to its answer; a worker that takes longer is replaced."""
    queue_seconds: float = 2.0
    """Longest expected wait in the queue with which a request is admitted."""
    memory_bytes: int = 224 * 1024 * 1024
    """Most memory for all large decodes together."""
    stuck_seconds: float = 30.0
    """Time on one large photo after which a thread of the second lane is replaced."""


class Engine:
    """Run a handler's stages on worker threads behind bounded queues."""

    def __init__(
        self,
        handler: ImageClassifierHandler,
        metrics: Metrics,
        limits: EngineLimits,
        *,
        max_batch: int = 1,
        max_delay_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        make_decoder: Callable[[Limits], Decoder] = Decoder,
    ) -> None:
        self._handler, self._metrics, self._clock, self._limits = handler, metrics, clock, limits
        few = max(1, limits.workers // 4)
        self._decoders = [make_decoder(handler.limits) for _ in range(few)]
        self._ordinary = Lane(
            "worker",
            self._compute_ordinary,
            ByAverage(
                workers=limits.workers,
                queue_size=limits.queue_size,
                deadline_seconds=limits.deadline_seconds,
                queue_seconds=limits.queue_seconds,
            ),
            threads=limits.workers,
            stuck_seconds=limits.deadline_seconds,
            on_abandoned=self._count_abandoned,
            max_batch=max_batch,
            max_delay_seconds=max_delay_seconds,
            on_crowded=self._hold_decoders,
            clock=clock,
        )
        self._large = Lane(
            "large",
            self._compute_large,
            ByCost(workers=few, queue_size=_MOST_LARGE, deadline_seconds=limits.deadline_seconds),
            threads=few,
            stuck_seconds=limits.stuck_seconds,
            on_abandoned=self._count_abandoned,
            memory_bytes=limits.memory_bytes,
            clock=clock,
        )
        self._lanes = (self._ordinary, self._large)
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        self._closed = threading.Event()
        metrics.queue_depth.set_function(lambda: sum(lane.waiting for lane in self._lanes))
        metrics.in_flight.set_function(lambda: sum(lane.computing for lane in self._lanes))
        metrics.stuck_workers.set_function(lambda: sum(lane.aside for lane in self._lanes))

    def start(self) -> None:
        """Start the workers, and the thread that replaces those that are stuck."""
        for decoder in self._decoders:
            decoder.start()
            self._free.put(decoder)
        for lane in self._lanes:
            lane.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        trimmer = Trimmer()
        while not self._closed.wait(_WATCH_SECONDS):
            self.replace_stuck()
            trimmer.check()

    def replace_stuck(self) -> None:
        """Replace each worker that is stuck."""
        for lane in self._lanes:
            lane.replace_stuck()

    def replace(self, handler: ImageClassifierHandler) -> None:
        """Let `handler` compute every batch taken from now on."""
        self._handler = handler

    @property
    def busy(self) -> bool:
        """Whether requests are waiting for a worker."""
        return bool(self._ordinary.waiting)

    def stalled_seconds(self) -> float:
        """How long no worker for ordinary photos has been able to answer; 0 if one is."""
        return self._ordinary.stalled_seconds()

    def close(self, timeout_seconds: float) -> bool:
        """Accept nothing more, compute what was accepted, then stop; return whether all workers ended."""
        ends = time.monotonic() + timeout_seconds
        self._ordinary.close()
        done = self._ordinary.join(ends)  # it may still move photos to the second lane
        self._large.close()
        done &= self._large.join(ends)
        for decoder in self._decoders:
            decoder.close()
        self._closed.set()
        return done

    async def submit(self, body: bytes, arrived: float) -> Result:
        """Queue one encoded image and wait for its result.

        Raises:
            EngineError: as for `submit_all`.
        """
        (result,) = self.submit_all([body], arrived)
        return await result

    def submit_all(self, bodies: Sequence[bytes], arrived: float) -> list[Coroutine[Any, Any, Result]]:
        """Queue the encoded images of one request, all or none; return what waits for the result of each.

        Args:
            bodies: The encoded images.
            arrived: When the request arrived, by the engine's clock; its deadline counts from there.

        Raises:
            Overloaded: the queue is full, or the last image could not be answered in time.
            NotReady: the engine is closing.

        To await a result raises:
            DeadlineExceeded: the request was accepted, but its time ran out.
            Overloaded: the image is large, and those before it take too long.
        """
        jobs = [self._job(body, arrived) for body in bodies]
        self._put(self._ordinary, jobs)
        return [self._result(job) for job in jobs]

    async def compute(
        self,
        body: bytes,
        arrived: float,
        work: Callable[[DecodedImage], T],
        *,
        seconds: float,
        memory_bytes: int,
    ) -> tuple[T, dict[str, float]]:
        """Decode one image and run `work` on it in the second lane; wait for its result.

        `work` begins when half of the cores have no ordinary photo, or when it would otherwise be too late.

        Args:
            body: The encoded image.
            arrived: When the request arrived, by the engine's clock.
            work: What to do with the pixels, on a thread of that lane.
            seconds: Upper bound of what it takes on top of the decode.
            memory_bytes: The same of its memory.

        Returns:
            The result, and the duration of the stages: queue and explain.

        Raises:
            ImageError: the bytes are not an accepted image.
            EngineError: as for `submit`.
        """
        structure = await asyncio.to_thread(self._handler.inspect, body)
        job = self._job(body, arrived)
        job.seconds, job.memory_bytes = structure.seconds + seconds, structure.memory_bytes + memory_bytes

        def timed(job: Job, started: float) -> tuple[T, dict[str, float]]:
            job.began["explain"] = started
            decoded = self._decode(job)
            self._ordinary.wait_for_cores(job.deadline - self._clock() - seconds)
            result = work(decoded)
            job.ended = self._clock()
            return result, {"queue": started - job.queued_at, "explain": job.ended - started}

        job.compute = timed
        self._put(self._large, [job])
        result: tuple[T, dict[str, float]] = await self._result(job)
        return result

    def _decode(self, job: Job) -> DecodedImage:
        """Decode in a process of its own, which ends if the time is up.

        Raises:
            ImageError: as for `preprocess`.
            DeadlineExceeded: the time is up.
        """
        decoder = self._free.get()
        try:
            size = self._handler.artifact.card.input_size
            return decoder.decode(job.body, size, max(0.0, job.deadline - self._clock()))
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            self._free.put(decoder)

    def _hold_decoders(self, crowded: bool) -> None:
        """Stop large decodes while ordinary photos need all cores, and continue them when one is free."""
        for decoder in self._decoders:
            decoder.hold(crowded)

    def _job(self, body: bytes, arrived: float) -> Job:
        future = asyncio.get_running_loop().create_future()
        return Job(body, arrived + self._limits.deadline_seconds, self._clock(), future)

    def _put(self, lane: Lane, jobs: list[Job]) -> None:
        try:
            lane.put(*jobs)
        except Overloaded as refusal:
            self._metrics.rejected.labels(refusal.reason).inc(len(jobs))
            raise
        followed = FOLLOWED.get()
        if followed is not None:
            followed += jobs

    async def _result(self, job: Job) -> Any:
        expiry = job.loop.call_later(job.deadline - job.queued_at, self._expire, job)
        try:
            return await job.future
        except DeadlineExceeded:
            self._metrics.rejected.labels("deadline").inc()
            raise
        finally:
            expiry.cancel()

    def _expire(self, job: Job) -> None:
        """Answer a job whose time is up, even if a worker is still computing it."""
        if not job.future.done():
            job.future.set_exception(self._too_late())

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"The answer was not ready within {self._limits.deadline_seconds:g} s.")

    def _count_abandoned(self) -> None:
        self._metrics.rejected.labels("disconnected").inc()

    def _compute_ordinary(self, jobs: list[Job], started: float) -> list[Any]:
        """One outcome per job; those that are large move to the second lane."""
        outcomes: dict[Job, Any] = {}
        timely: list[tuple[Job, Item]] = []
        for job in jobs:
            if started > job.deadline:
                outcomes[job] = self._too_late()
                continue
            item = self._item(job)
            known = item["known"]
            if isinstance(known, Structure) and _is_large(known):
                outcomes[job] = self._move(job, known)
            else:
                timely.append((job, item))
        outcomes.update(self._compute_each(timely, started))
        return [outcomes[job] for job in jobs]

    def _item(self, job: Job) -> Item:
        try:
            return {"body": job.body, "known": self._handler.inspect(job.body)}
        except ImageError as error:
            return {"body": job.body, "known": error}

    def _move(self, job: Job, structure: Structure) -> Any:
        job.seconds, job.memory_bytes = structure.seconds, structure.memory_bytes

        def predict(job: Job, started: float) -> Any:
            job.began["decode"] = started
            try:
                known: DecodedImage | ImageError = self._decode(job)
            except ImageError as error:
                known = error
            decode = self._clock() - started
            result = self._compute_each([(job, {"body": job.body, "known": known})], started)[job]
            if isinstance(result, Result):
                result.seconds["decode"] = decode
                if "infer" in result.seconds:
                    result.seconds["infer"] = self._clock() - started - decode
            return result

        job.compute = predict
        try:
            self._put(self._large, [job])
        except Overloaded as refusal:
            return refusal
        return MOVED

    def _compute_large(self, jobs: list[Job], started: float) -> list[Any]:
        (job,) = jobs
        assert job.compute is not None  # noqa: S101 (every job of this lane has it)
        if started + _HOPEFUL * job.seconds > job.deadline:
            return [self._too_late()]
        try:
            return [job.compute(job, started)]
        except Exception as error:  # noqa: BLE001 (it is the answer to the request)
            return [error]

    def _compute_each(self, jobs: list[tuple[Job, Item]], started: float) -> dict[Job, Result | Exception]:
        """One outcome per job; if a batch fails as a whole, each of its jobs is retried alone."""
        try:
            return dict(zip((job for job, _ in jobs), self._predict(jobs, started), strict=True))
        except Exception as error:  # noqa: BLE001 (it is the answer to the request)
            if len(jobs) == 1:
                return {jobs[0][0]: error}
            return {job: self._compute_each([(job, item)], started)[job] for job, item in jobs}

    def _predict(self, jobs: list[tuple[Job, Item]], started: float) -> list[Result]:
        """Run the handler's stages on a batch."""
        if not jobs:
            return []
        handler = self._handler  # one for the whole batch: a reload swaps between batches
        for job, _ in jobs:
            job.began["decode"] = started
        batch = handler.preprocess([item for _, item in jobs])
        decoded = self._clock()
        for (job, _), image in zip(jobs, batch.images, strict=True):
            if isinstance(image, ImageError):
                job.ended = decoded
            else:
                job.began["infer"] = decoded
        batch = handler.inference(batch)
        answers = handler.postprocess(batch)
        done = self._clock()
        if not any(
            job.compute or isinstance(answer, Refusal) for (job, _), answer in zip(jobs, answers, strict=True)
        ):
            self._ordinary.learn((done - started) / len(jobs))
        for job, _ in jobs:
            job.ended = job.ended or done
        decode, infer = {"decode": decoded - started}, {"infer": done - decoded}
        return [
            Result(
                image,
                answer,
                handler.artifact,
                {"queue": started - job.queued_at} | decode | ({} if isinstance(answer, Refusal) else infer),
                measure_photo(image, answer),
            )
            for (job, _), answer, image in zip(jobs, answers, batch.images, strict=True)
        ]


def _is_large(structure: Structure) -> bool:
    return structure.seconds > _ORDINARY_SECONDS or structure.memory_bytes > _ORDINARY_BYTES
