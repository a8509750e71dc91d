"""Lines in from any thread, written to a descriptor by one thread of its own; nobody else waits for them.

`serving.telemetry.logs` puts every line of the log here. While nobody takes the output (a full pipe, a reader
that has ended, a full disk, a closed terminal), lines are dropped and counted, and writing resumes by itself.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

MOST_LINES: Final = 10_000
MOST_BYTES: Final = 8 * 1024 * 1024
_BATCH_BYTES: Final = 64 * 1024


class _Line(NamedTuple):
    text: bytes
    """With its line feed."""
    reports: int = 0
    """If it is the notice of dropped lines: how many."""


class LineWriter:
    """A bounded queue of lines and the daemon thread that writes them."""

    def __init__(
        self,
        descriptor: int,
        notice: Callable[[int], bytes],
        *,
        most_lines: int = MOST_LINES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Start the thread.

        Args:
            descriptor: Where the lines are written; it may block, fail, or be set to non-blocking.
            notice: Makes the line that reports how many lines were dropped before it.
            most_lines: Lines that may wait.
            most_bytes: Bytes that may wait.
        """
        self._descriptor, self._notice = descriptor, notice
        self._most_lines, self._most_bytes = most_lines, most_bytes
        self._lines: deque[_Line] = deque()
        self._bytes = 0
        self._closed = False
        self._unreported = 0
        self._torn = False
        self.dropped = 0
        """Lines dropped since the start."""
        self._on_drop: Callable[[int], None] = lambda _: None
        # A re-entrant lock: the garbage collector may log while the same thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def report_drops(self, on_drop: Callable[[int], None]) -> None:
        """Call `on_drop` with the lines dropped so far, and with those of each later drop."""
        with self._changed:
            self._on_drop = on_drop
            if self.dropped:
                on_drop(self.dropped)

    def put(self, text: bytes) -> None:
        """Queue one line, without its line feed, or drop it; never waits, never raises."""
        with self._changed:
            if not self._fits(len(text) + 1):
                self._drop(1)
                return
            if self._unreported:
                self._append(self._reporting())
            self._append(_Line(text + b"\n"))
            self._changed.notify()

    def close(self, timeout_seconds: float) -> bool:
        """Take no more lines and write those that wait, within a time; return whether all were written."""
        with self._changed:
            if self._unreported and not self._closed:
                self._append(self._reporting())
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _fits(self, size: int) -> bool:
        room = len(self._lines) < self._most_lines and self._bytes + size <= self._most_bytes
        return room and not self._closed

    def _append(self, line: _Line) -> None:
        self._lines.append(line)
        self._bytes += len(line.text)

    def _reporting(self) -> _Line:
        count, self._unreported = self._unreported, 0
        return _Line(self._notice(count) + b"\n", count)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._unreported += count
        self._on_drop(count)

    def _work(self) -> None:
        while lines := self._take():
            written = self._write(b"".join(line.text for line in lines))
            if written is None:
                continue
            with self._changed:
                for line in lines:
                    written -= len(line.text)
                    if written >= 0:
                        continue
                    if line.reports:
                        self._unreported += line.reports
                    else:
                        self._drop(1)

    def _take(self) -> Sequence[_Line]:
        """The next lines, about `_BATCH_BYTES` at most; none once the writer is closed and empty."""
        lines: list[_Line] = []
        with self._changed:
            while not self._lines and not self._closed:
                self._changed.wait()
            size = 0
            while self._lines and size < _BATCH_BYTES:
                line = self._lines.popleft()
                lines.append(line)
                size += len(line.text)
            self._bytes -= size
        return lines

    def _write(self, data: bytes) -> int | None:
        """Write all of `data`; None, or if that fails, the number of bytes that were written."""
        if self._torn:  # the last line ends in the middle: end it, so that the next one stands alone
            data = b"\n" + data
        start, rest = int(self._torn), memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:  # the reader ended, the disk is full, the terminal is closed
                written = len(data) - len(rest)
                if written:
                    self._torn = data[written - 1 : written] != b"\n"
                return max(0, written - start)
        self._torn = False
        return None
