"""The admission policies: whether one more request can be answered in time.

Numbers in, a verdict out; no threads, no clock, no metrics. `serving.engine.lane` consults a policy under its
lock before it queues a request, and reports each duration back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from serving.contract.errors import Overloaded
from serving.engine.job import Job

FIRST_GUESS_SECONDS: Final = 0.02
_SMOOTHING: Final = 0.1
_CAUTION: Final = 1.25  # factor on the expected time: just in time on average is often late
_LONGEST: Final = 10.0  # multiple of the average that a single measurement counts for, at most


class Admission(Protocol):
    """Refuses at once what would wait in vain. Not thread-safe."""

    def learn(self, photo_seconds: float) -> None:
        """Take note of the measured duration of one photo."""

    def check(
        self,
        jobs: Collection[Job],
        *,
        waiting: Collection[Job],
        computing: Collection[Job],
        remaining_seconds: float,
    ) -> None:
        """Admit a request or refuse it.

        Args:
            jobs: Its photos, which are admitted together or not at all.
            waiting: Those in the queue.
            computing: Those that workers have taken.
            remaining_seconds: Time until the deadline of this one.

        Raises:
            Overloaded: the queue is full, or the answer would be late. An idle engine admits any request.
        """


class ByAverage:
    """For requests that cost about the same: by a moving average of their durations."""

    def __init__(
        self, *, workers: int, queue_size: int, deadline_seconds: float, queue_seconds: float
    ) -> None:
        """Set the limits.

        Args:
            workers: Threads that compute at the same time.
            queue_size: Requests that may wait for them.
            deadline_seconds: Longest time from a complete request to its answer.
            queue_seconds: Longest expected wait in the queue.
        """
        self._deadline_seconds, self._queue_seconds = deadline_seconds, queue_seconds
        self._workers, self._queue_size = workers, queue_size
        self._photo_seconds = FIRST_GUESS_SECONDS

    def learn(self, photo_seconds: float) -> None:
        """Add to the exponential moving average; a single slow photo must not refuse the next ones."""
        clipped = min(photo_seconds, _LONGEST * self._photo_seconds)
        self._photo_seconds += _SMOOTHING * (clipped - self._photo_seconds)

    def wait_seconds(self, ahead: int) -> float:
        """How long `ahead` requests keep all workers busy, on average."""
        return ahead / self._workers * self._photo_seconds

    def expected_seconds(self, ahead: int) -> float:
        """A cautious estimate of the time to answer a request with `ahead` others before it."""
        return _CAUTION * (self.wait_seconds(ahead) + self._photo_seconds)

    def check(
        self,
        jobs: Collection[Job],
        *,
        waiting: Collection[Job],
        computing: Collection[Job],
        remaining_seconds: float,
    ) -> None:
        """Admit by the number of requests ahead of the last."""
        ahead = len(waiting) + len(computing)
        expected = self.expected_seconds(ahead + len(jobs) - 1)
        allowed = min(remaining_seconds, self._queue_seconds + _CAUTION * self._photo_seconds)
        late = expected - allowed
        if waiting and len(waiting) + len(jobs) > self._queue_size:
            raise Overloaded(
                f"The queue is full: {len(waiting)} requests are waiting. Retry later.",
                retry_after_seconds=max(late, self.wait_seconds(ahead)),
                reason="queue-full",
            )
        if late > 0 and ahead:
            raise _too_slow(expected, min(self._deadline_seconds, self._queue_seconds), late)


class ByCost:
    """For requests whose cost is known beforehand and differs."""

    def __init__(self, *, workers: int, queue_size: int, deadline_seconds: float) -> None:
        """Set the limits, as for `ByAverage`."""
        self._workers, self._queue_size, self._deadline_seconds = workers, queue_size, deadline_seconds

    def learn(self, photo_seconds: float) -> None:
        """Nothing: the estimate of each is an upper bound."""

    def check(
        self,
        jobs: Collection[Job],
        *,
        waiting: Collection[Job],
        computing: Collection[Job],
        remaining_seconds: float,
    ) -> None:
        """Admit by the sum of the costs."""
        ahead = sum(other.seconds for other in (*waiting, *computing)) / self._workers
        own = sum(job.seconds for job in jobs)
        late = ahead + own - remaining_seconds
        if waiting and len(waiting) + len(jobs) > self._queue_size:
            raise Overloaded(
                f"{len(waiting)} large photos are waiting. Retry later, or send a smaller one.",
                retry_after_seconds=max(late, ahead),
                reason="queue-full",
            )
        if late > 0 and (waiting or computing):
            raise _too_slow(ahead + own, self._deadline_seconds, late)


def _too_slow(expected: float, allowed: float, late: float) -> Overloaded:
    return Overloaded(
        f"The answer would take {expected:.1f} s, more than the {allowed:g} s that are allowed. Retry later.",
        retry_after_seconds=late,
        reason="too-slow",
    )
