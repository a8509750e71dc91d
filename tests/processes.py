"""The service as a separate process, with its log."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.tiny import ROOT


class Process:
    """A running service, its address and the lines it logged."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "serving"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, object]] = []
        self.errors: list[str] = []
        """Output that bypasses the log: a C library's messages about malicious bytes."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self) -> None:
        for line in self.popen.stdout:
            content = json.loads(line)
            if content["event"] not in ("predicted", "refused"):  # a soak would fill the memory with them
                self.lines.append(content)

    def _read_errors(self) -> None:
        for line in self.popen.stderr:
            del self.errors[:-100]
            self.errors.append(line)

    def wait_for(self, event: str) -> dict[str, object]:
        """The first logged line of an event."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if line["event"] == event:
                    return line
            assert self.popen.poll() is None or self._reader.is_alive(), (self.lines, self.errors)
            time.sleep(0.02)
        pytest.fail(f"no {event!r} in {self.lines}, {self.errors}")

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.wait_for("listening")["address"])

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        status = self.popen.wait(30)
        self._reader.join(10)
        return status


@contextmanager
def service(environment: dict[str, str]) -> Iterator[Process]:
    """A process on a free port, killed at the end if it is still running."""
    process = Process(environment | {"PORT": "0"})
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait(10)
        process._reader.join(10)
        process.popen.stdout.close()
        process.popen.stderr.close()
