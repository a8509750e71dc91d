"""One budget of bytes for all request bodies, from their first byte to their answer.

`serving.http.request` holds a share of it for each body; `serving.http.gate` gives it back. Only the event
loop uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.contract.errors import Overloaded


@dataclass(eq=False)
class Share:
    """What one request holds."""

    give_way: Callable[[], None]
    """Called if the request must end, because its body is the costliest of those that are incomplete."""
    began: float
    bytes: int = 0
    complete: bool = False


@dataclass
class ByteBudget:
    """Bytes that request bodies may take together."""

    limit_bytes: int
    clock: Callable[[], float] = time.monotonic
    held_bytes: int = 0
    """Bytes that are taken now."""
    _shares: set[Share] = field(default_factory=set)

    def open(self, give_way: Callable[[], None]) -> Share:
        """A share for a new request, of no bytes yet."""
        share = Share(give_way, self.clock())
        self._shares.add(share)
        return share

    def grow(self, share: Share, size: int) -> None:
        """Take more bytes for a request.

        If they do not fit, an incomplete body gives way: the one with the most bytes times seconds, so that
        slow uploads of large bodies make room for the quick and the small.

        Raises:
            Overloaded: the request itself is the one to give way.
        """
        while self.held_bytes + size > self.limit_bytes:
            now = self.clock()
            incomplete = [one for one in self._shares if not one.complete]
            worst = max(
                incomplete,
                key=lambda one: (one.bytes + size * (one is share)) * (now - one.began),
                default=share,
            )
            if worst is share or not worst.bytes:
                raise no_room()
            self.release(worst)
            worst.give_way()
        share.bytes += size
        self.held_bytes += size

    def release(self, share: Share) -> None:
        """Give back what a request holds; a second time does nothing."""
        self._shares.discard(share)
        self.held_bytes -= share.bytes
        share.bytes = 0


def no_room() -> Overloaded:
    """The error for a request that there is no memory for."""
    return Overloaded(
        "More is being uploaded at once than the service has memory for. Retry later, or send a smaller "
        "photo.",
        retry_after_seconds=1,
        reason="no-room",
    )
