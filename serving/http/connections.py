"""The connections of this process: how many there may be, and which one makes room for a new one.

`serving.http.protocol` enters itself here; `serving.http.server` sets the limit by what the system allows.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

import structlog

from serving.telemetry.metrics import Metrics

_RESERVED_DESCRIPTORS: Final = 64
"""For the model, the log, the feedback store and the pages."""
_LEAST: Final = 16
_MOST_REFUSED: Final = 32
"""Refused connections that may stay until their callers have read why; they use the reserved descriptors."""


class Phase(IntEnum):
    """What a connection waits for; the first are the first to make room."""

    NEVER_SPOKE = 0
    """The head of its first request."""
    HEAD = 1
    """The head of another request, of which something has come."""
    IDLE = 2
    """Another request."""
    UNREAD = 3
    """A caller that does not read its answer."""
    BODY = 4
    """The body of a request."""
    ANSWER = 5
    """An answer: it never makes room."""


class Connection(Protocol):
    """One connection."""

    phase: Phase
    since: float
    """When the phase began, in seconds of the event loop."""

    def abort(self) -> None:
        """Close at once."""

    def shutdown(self) -> None:
        """Answer what has been sent, and no more."""

    def end(self) -> None:
        """Close, once everything is written."""


@dataclass
class Connections:
    """All connections, of which there are at most `limit`."""

    limit: int
    metrics: Metrics
    _all: set[Connection] = field(default_factory=set)
    _refused: deque[Connection] = field(default_factory=lambda: deque(maxlen=_MOST_REFUSED))
    _full: bool = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter([*self._all])

    def enter(self, connection: Connection) -> bool:
        """Take in a new connection; return whether there is room, which another may have to make.

        The one that has waited longest for its head goes first, then the one that has been idle longest, then
        the slowest upload.
        """
        while len(self._all) >= self.limit:
            worst = min(self._all, key=lambda one: (one.phase, one.since))
            self._report_full()
            if worst.phase is Phase.ANSWER:
                self.closed("refused")
                if len(self._refused) == _MOST_REFUSED:
                    self._refused[0].abort()
                self._refused.append(connection)
                return False
            self.closed("made-room")
            self._all.discard(worst)
            worst.abort()
        self._all.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        if connection in self._refused:
            self._refused.remove(connection)
        if self._full and 2 * len(self._all) < self.limit:
            self._full = False

    def closed(self, reason: str) -> None:
        """Count a connection that this side closed."""
        self.metrics.connections_closed.labels(reason).inc()

    def _report_full(self) -> None:
        if not self._full:  # one line an episode; the metric counts
            self._full = True
            structlog.get_logger().warning("too many connections", limit=self.limit)


def allowed(wanted: int) -> int:
    """How many connections there may be: as many as wanted, if the system's limit can be raised to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED_DESCRIPTORS
    if soft < needed:
        soft = min(needed, hard) if hard != resource.RLIM_INFINITY else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= needed:
        return wanted
    possible = max(_LEAST, soft - _RESERVED_DESCRIPTORS)
    structlog.get_logger().warning(
        "fewer connections than set",
        limit=possible,
        wanted=wanted,
        descriptors=soft,
        advice="raise ulimit -n",
    )
    return possible
