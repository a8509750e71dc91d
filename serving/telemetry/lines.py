"""Lines to a file descriptor by a thread of its own: whoever logs never waits for whoever reads.

`serving.telemetry.logs` writes the log through it. A line that nobody takes is dropped and counted: a pipe
that is full, a reader that has ended, a disk without space.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_MOST_LINES: Final = 10_000
_MOST_BYTES: Final = 4_000_000
_PAUSE_SECONDS: Final = 0.2
"""Between two attempts on a descriptor that takes nothing."""


class Lines:
    """A text stream, as far as loggers use one, that never blocks and never fails."""

    def __init__(self, descriptor: int, describe_dropped: Callable[[int], str]) -> None:
        """Start the thread.

        Args:
            descriptor: Where the lines go.
            describe_dropped: The line that is written after some were dropped, by their number.
        """
        self._descriptor, self._describe_dropped = descriptor, describe_dropped
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._writing = False
        self.dropped = 0
        """Lines since the start that nobody took."""
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Queue a line, or several; drop it if too much is waiting."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if len(self._waiting) >= _MOST_LINES or self._bytes + len(data) > _MOST_BYTES:
                self.dropped += 1
                return
            self._waiting.append(data)
            self._bytes += len(data)
            self._changed.notify()

    def flush(self) -> None:
        """Nothing: the thread writes as soon as it can."""

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written, at most so long; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, seconds)

    def _work(self) -> None:
        reported = 0
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._writing = True
                line = self._waiting.popleft()
                self._bytes -= len(line)
                lost = self.dropped - reported
            if lost and self._write(self._describe_dropped(lost).encode()):
                reported += lost
            if not self._write(line):
                with self._changed:
                    self.dropped += 1
                time.sleep(_PAUSE_SECONDS if self._waiting else 0)

    def _write(self, data: bytes) -> bool:
        """Write all of it; return whether that was possible."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BlockingIOError:  # somebody has set the descriptor to non-blocking
            time.sleep(_PAUSE_SECONDS)
            return False
        except OSError:
            return False
        return True
