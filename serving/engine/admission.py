"""The policy of the queue: whether one more request can still be answered in time.

Numbers in, a verdict out: no thread, no clock, no metric. `serving.engine.workers` asks it under its lock
before it queues a request, and reports each duration back.
"""

from __future__ import annotations

from typing import Final

from serving.contract.errors import DeadlineExceeded, Overloaded

FIRST_GUESS_SECONDS: Final = 0.02
_SMOOTHING: Final = 0.1
_CAUTION: Final = 1.25  # times the expected wait: who would be just in time by the mean is often late


class Admission:
    """Refuse at once what would wait in vain. Not for several threads."""

    def __init__(self, *, workers: int, queue_size: int, deadline_seconds: float) -> None:
        """Set the bounds.

        Args:
            workers: Threads that compute at the same time.
            queue_size: Requests that may wait for them.
            deadline_seconds: From a complete request to its answer.
        """
        self.deadline_seconds = deadline_seconds
        self._workers, self._queue_size = workers, queue_size
        self._photo_seconds = FIRST_GUESS_SECONDS

    def learn(self, photo_seconds: float) -> None:
        """Take a measured duration of one photo into the exponential moving average."""
        self._photo_seconds += _SMOOTHING * (photo_seconds - self._photo_seconds)

    def wait_seconds(self, ahead: int) -> float:
        """How long `ahead` requests keep all workers busy, by the mean."""
        return ahead / self._workers * self._photo_seconds

    def expected_seconds(self, ahead: int) -> float:
        """From now to the answer of a request with `ahead` others before it, cautiously."""
        return _CAUTION * (self.wait_seconds(ahead) + self._photo_seconds)

    def check(self, *, waiting: int, computing: int, remaining_seconds: float) -> None:
        """Let a request pass, or refuse it.

        Args:
            waiting: Requests in the queue.
            computing: Requests that workers have taken.
            remaining_seconds: Until the deadline of this one.

        Raises:
            Overloaded: the queue is full, or the answer would be late. An idle engine takes any request.
        """
        ahead = waiting + computing
        expected = self.expected_seconds(ahead)
        late = expected - remaining_seconds
        if waiting >= self._queue_size:
            raise Overloaded(
                f"{waiting} requests are waiting already.",
                retry_after_seconds=max(late, self.wait_seconds(ahead)),
                reason="queue-full",
            )
        if late > 0 and ahead:
            raise Overloaded(
                f"The answer would take {expected:.1f} s, more than the deadline of "
                f"{self.deadline_seconds:g} s.",
                retry_after_seconds=late,
                reason="too-slow",
            )

    def too_late(self) -> DeadlineExceeded:
        """The error of a request that was accepted, and whose time ran out."""
        return DeadlineExceeded(f"The answer was not ready within {self.deadline_seconds:g} s.")
