"""A bounded queue and the threads that compute what is in it; `serving.engine.workers` has two.

A thread survives any error and still answers its jobs. One that does not return in time is replaced: it
finishes aside, at the lowest priority, since a thread cannot be interrupted, and then ends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from common.processor import yield_to_others
from serving.contract.errors import EngineError, NotReady
from serving.engine.admission import Admission
from serving.engine.job import Job

MOVED: Final = object()
"""The outcome of a job that another lane computes."""


@dataclass(slots=True)
class _Busy:
    since: float
    jobs: list[Job]


class Lane:
    """Threads that compute jobs from one queue."""

    def __init__(
        self,
        name: str,
        compute: Callable[[list[Job], float], list[Any]],
        admission: Admission,
        *,
        threads: int,
        stuck_seconds: float,
        on_abandoned: Callable[[], None],
        max_batch: int = 1,
        max_delay_seconds: float = 0.0,
        memory_bytes: int | None = None,
        on_crowded: Callable[[bool], None] = lambda crowded: None,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` starts the threads.

        Args:
            name: Prefix of the threads' names.
            compute: One outcome for each of a batch of jobs, given when the batch was started: a result, an
                exception, or `MOVED`.
            admission: Decides whether a job may be queued.
            threads: How many compute at the same time.
            stuck_seconds: Time on one batch after which a thread is replaced; as many as there are threads.
            on_abandoned: Called for each job whose caller left while it was queued.
            max_batch: Most jobs that a thread takes at a time.
            max_delay_seconds: Longest time that a job waits for others to fill its batch.
            memory_bytes: Most memory that the jobs in progress may take together; None does not count it.
            on_crowded: Called with True when this lane has come to need all cores, and with False when one is
                free again; it must not wait.
            clock: Monotonic seconds.
        """
        self._name, self._compute, self._admission = name, compute, admission
        self._count, self._stuck_seconds = threads, stuck_seconds
        self._max_batch, self._max_delay_seconds, self._memory_bytes = (
            max_batch,
            max_delay_seconds,
            memory_bytes,
        )
        self._on_abandoned, self._on_crowded, self._clock = on_abandoned, on_crowded, clock
        self._crowded = False
        self._queue: deque[Job] = deque()
        lock = threading.RLock()
        self._changed, self._fewer = threading.Condition(lock), threading.Condition(lock)
        self._closing = False
        self._numbers = count()
        self._threads: set[threading.Thread] = set()
        self._busy: dict[threading.Thread, _Busy] = {}
        self._aside: set[threading.Thread] = set()

    def start(self) -> None:
        """Start the threads."""
        with self._changed:
            for _ in range(self._count):
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True)
        self._threads.add(thread)
        thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def computing(self) -> int:
        """Jobs that threads have taken; those finishing aside do not count."""
        with self._changed:
            return len(self._taken())

    @property
    def aside(self) -> int:
        """Threads that have been replaced and have not ended."""
        return len(self._aside)

    @property
    def _cores(self) -> int:
        """There is one thread more than there are cores."""
        return max(1, self._count - 1)

    def wait_for_cores(self, most_seconds: float) -> bool:
        """Wait until half of the cores are free, at most `most_seconds`; return whether they are."""
        with self._fewer:
            return self._fewer.wait_for(lambda: 2 * len(self._busy) < self._cores, max(0.0, most_seconds))

    def _taken_or_freed(self) -> None:
        """Tell who waits for cores; under the lock."""
        crowded = len(self._busy) >= self._cores
        if crowded is not self._crowded:
            self._crowded = crowded
            self._on_crowded(crowded)
        self._fewer.notify_all()

    def put(self, *jobs: Job) -> None:
        """Queue the jobs of one request, all or none.

        Raises:
            Overloaded: the admission policy refuses it.
            NotReady: the lane is closing.
        """
        with self._changed:
            if self._closing:
                raise NotReady("The service is shutting down. Retry later.")
            self._admission.check(
                jobs,
                waiting=self._queue,
                computing=self._taken(),
                remaining_seconds=jobs[0].deadline - self._clock(),
            )
            self._queue.extend(jobs)
            self._changed.notify(len(jobs))

    def learn(self, photo_seconds: float) -> None:
        """Report the duration of one photo to the admission policy."""
        with self._changed:
            self._admission.learn(photo_seconds)

    def replace_stuck(self) -> None:
        """Start a thread for each that is stuck; as many as there are threads may finish aside."""
        with self._changed:
            for thread in self._stuck():
                if len(self._aside) >= self._count:
                    return
                yield_to_others(thread.native_id)
                del self._busy[thread]
                self._threads.discard(thread)
                self._aside.add(thread)
                self._start_thread()
                self._taken_or_freed()

    def stalled_seconds(self) -> float:
        """How long no thread has been able to take a job, beyond the time allowed for one; 0 if one is."""
        with self._changed:
            if len(self._stuck()) < self._count or not self._threads:
                return 0.0
            return self._clock() - max(busy.since for busy in self._busy.values()) - self._stuck_seconds

    def close(self) -> None:
        """Accept nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, until: float) -> bool:
        """Wait for what was accepted until `until`, in monotonic seconds; return whether it is computed."""
        threads = [*self._threads]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _taken(self) -> Collection[Job]:
        return [job for busy in self._busy.values() for job in busy.jobs]

    def _stuck(self) -> list[threading.Thread]:
        now = self._clock()
        return [thread for thread, busy in self._busy.items() if now - busy.since > self._stuck_seconds]

    def _work(self) -> None:
        me = threading.current_thread()
        while jobs := self._take(me):
            try:
                outcomes = self._compute(jobs, self._clock())
            except BaseException as error:  # noqa: BLE001 the worker survives and answers
                outcomes = [EngineError(type(error).__name__)] * len(jobs)
            with self._changed:
                replaced = me in self._aside
                self._aside.discard(me)
                self._busy.pop(me, None)
                self._changed.notify_all()  # memory is free, if it counts
                self._taken_or_freed()
            for job, outcome in zip(jobs, outcomes, strict=True):
                if outcome is not MOVED:
                    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
                        job.loop.call_soon_threadsafe(_settle, job.future, outcome)
            if replaced:
                return
            del jobs, outcomes  # an idle thread must not hold the last photo

    def _take(self, me: threading.Thread) -> list[Job]:
        """The next jobs worth computing, at least one; none once the lane is closed and empty."""
        jobs: list[Job] = []
        with self._changed:
            patience = 0.0
            while not jobs or (len(jobs) < self._max_batch and patience > self._clock()):
                while self._queue and len(jobs) < self._max_batch and self._fits(self._queue[0]):
                    job = self._queue.popleft()
                    if not job.future.done():
                        jobs.append(job)
                    elif job.future.cancelled():
                        self._on_abandoned()
                if jobs and not patience:
                    patience = self._clock() + self._max_delay_seconds
                if len(jobs) == self._max_batch or (jobs and self._max_delay_seconds == 0):
                    break
                if self._closing and not self._queue:
                    break
                self._changed.wait(max(0.0, patience - self._clock()) if jobs else None)
            if jobs:
                self._busy[me] = _Busy(self._clock(), jobs)
                self._taken_or_freed()
        return jobs

    def _fits(self, job: Job) -> bool:
        """Whether the memory for a job is free; the first of all always fits."""
        if self._memory_bytes is None:
            return True
        taken = sum(other.memory_bytes for other in self._taken())
        return not taken or taken + job.memory_bytes <= self._memory_bytes


def _settle(future: Any, outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
