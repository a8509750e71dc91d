"""The admission policy: whether one more request can be answered in time.

Numbers in, a verdict out; no threads, no clock, no metrics. `serving.engine.workers` consults it under its
lock before it queues a request, and reports each duration back.
"""

from __future__ import annotations

from typing import Final

from serving.contract.errors import DeadlineExceeded, Overloaded

FIRST_GUESS_SECONDS: Final = 0.02
_SMOOTHING: Final = 0.1
_CAUTION: Final = 1.25  # factor on the expected time: just in time on average is often late


class Admission:
    """Refuse at once what would wait in vain. Not thread-safe."""

    def __init__(self, *, workers: int, queue_size: int, deadline_seconds: float) -> None:
        """Set the limits.

        Args:
            workers: Threads that compute at the same time.
            queue_size: Requests that may wait for them.
            deadline_seconds: Longest time from a complete request to its answer.
        """
        self.deadline_seconds = deadline_seconds
        self._workers, self._queue_size = workers, queue_size
        self._photo_seconds = FIRST_GUESS_SECONDS

    def learn(self, photo_seconds: float) -> None:
        """Add the measured duration of one photo to the exponential moving average."""
        self._photo_seconds += _SMOOTHING * (photo_seconds - self._photo_seconds)

    def wait_seconds(self, ahead: int) -> float:
        """How long `ahead` requests keep all workers busy, on average."""
        return ahead / self._workers * self._photo_seconds

    def expected_seconds(self, ahead: int) -> float:
        """A cautious estimate of the time to answer a request with `ahead` others before it."""
        return _CAUTION * (self.wait_seconds(ahead) + self._photo_seconds)

    def check(self, *, waiting: int, computing: int, remaining_seconds: float) -> None:
        """Admit a request or refuse it.

        Args:
            waiting: Requests in the queue.
            computing: Requests that workers have taken.
            remaining_seconds: Time until the deadline of this request.

        Raises:
            Overloaded: the queue is full, or the answer would be late. An idle engine admits any request.
        """
        ahead = waiting + computing
        expected = self.expected_seconds(ahead)
        late = expected - remaining_seconds
        if waiting >= self._queue_size:
            raise Overloaded(
                f"The queue is full: {waiting} requests are waiting. Retry later.",
                retry_after_seconds=max(late, self.wait_seconds(ahead)),
                reason="queue-full",
            )
        if late > 0 and ahead:
            raise Overloaded(
                f"The answer would take {expected:.1f} s, more than the deadline of "
                f"{self.deadline_seconds:g} s. Retry later.",
                retry_after_seconds=late,
                reason="too-slow",
            )

    def too_late(self) -> DeadlineExceeded:
        """The error for an accepted request whose time ran out."""
        return DeadlineExceeded(f"The answer was not ready within {self.deadline_seconds:g} s.")
