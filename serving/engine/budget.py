"""One budget of bytes for all request bodies, from their first byte to their answer.

`serving.http.request` holds a share of it for each body; `serving.http.gate` gives it back. Only the event
loop uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serving.contract.errors import Overloaded

_SMALL_BYTES: Final = 1_000_000
_FOR_LARGE: Final = 0.75
"""Share of the budget that bodies above `_SMALL_BYTES` may take: an ordinary photo always finds room."""
_PATIENCE_SECONDS: Final = 2.0
"""Age from which an incomplete body may have to give way; sooner, the newcomer is refused."""


@dataclass(eq=False)
class Share:
    """What one request holds."""

    give_way: Callable[[], None]
    """Called if the request must end, because its body is the costliest of those that are incomplete."""
    began: float
    bytes: int = 0
    received: int = 0
    complete: bool = False


@dataclass
class ByteBudget:
    """Bytes that request bodies may take together."""

    limit_bytes: int
    clock: Callable[[], float] = time.monotonic
    held_bytes: int = 0
    """Bytes that are taken now."""
    _shares: set[Share] = field(default_factory=set)

    def open(self, announced_bytes: int, give_way: Callable[[], None]) -> Share:
        """A share for a new request, of what its head announces; 0 if it does not.

        Raises:
            Overloaded: there is no room for it.
        """
        share = Share(give_way, self.clock())
        self._take(share, announced_bytes)
        self._shares.add(share)
        return share

    def received(self, share: Share, size: int) -> None:
        """Count bytes that were kept of a body; take them if they were not announced.

        Raises:
            Overloaded: there is no room for them.
        """
        if share not in self._shares:  # it gave way just now
            raise no_room()
        share.received += size
        if share.received > share.bytes:
            self._take(share, share.received - share.bytes)

    def completed(self, share: Share) -> None:
        """The body is there: what it announced and did not keep is free, and it no longer gives way."""
        share.complete = True
        self.held_bytes -= share.bytes - share.received
        share.bytes = share.received

    def _take(self, share: Share, size: int) -> None:
        """Take bytes.

        If they do not fit, an incomplete body gives way: the one with the most bytes times seconds, so that
        slow uploads of large bodies make room for others.
        """
        is_large = share.bytes + size > _SMALL_BYTES
        limit = _FOR_LARGE * self.limit_bytes if is_large else self.limit_bytes
        while self.held_bytes + size > limit:
            now = self.clock()
            slow = [
                one
                for one in self._shares
                if one is not share and not one.complete and now - one.began >= _PATIENCE_SECONDS
            ]
            worst = max(slow, key=lambda one: one.bytes * (now - one.began), default=None)
            if worst is None or not worst.bytes:
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
