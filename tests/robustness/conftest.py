"""One service with the released model, watched from outside."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import Process, service
from tests.tiny import ROOT

SCALE = float(os.environ.get("SCALE") or 1)
"""Factor on the number of inputs and the duration in CI."""


@dataclass
class Target:
    """The service under attack."""

    process: Process
    url: str
    child: psutil.Process

    def resident_mb(self) -> float:
        """Resident memory now, that of the processes that it started included."""
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    def own_mb(self) -> float:
        """The part of it that the system cannot take back: without pages of files, such as libraries.

        How many pages of libraries are resident depends on the page cache: 70 MB more in a fresh clone.
        """
        total_kb = 0
        for process in self._processes():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                total_kb += sum(map(int, re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", status, re.MULTILINE)))
        return total_kb * 1024 / 1e6

    def _processes(self) -> list[psutil.Process]:
        """The service and the processes that it started.

        Until a new process has called exec, its memory is that of the service, and not to be counted twice.
        """
        found, own = [self.child], self.child.cmdline()
        for process in self.child.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline() != own and process.memory_info().rss:
                    found.append(process)
        return found

    def peak_mb(self) -> float:
        """The peak of resident memory so far."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return float(status.split("VmHWM:")[1].split()[0]) / 1e3

    def check(self, photo: bytes) -> None:
        """Check that the service is alive and answers."""
        assert self.process.popen.poll() is None
        with httpx.Client(base_url=self.url, timeout=30) as client:
            assert client.get("/health").status_code == 200
            assert client.post("/predict", content=photo).status_code == 200


@pytest.fixture(scope="module")
def target(environment: Callable[..., dict[str, str]]) -> Iterator[Target]:
    """A service with default settings."""
    model = os.environ.get("MODEL") or str(ROOT / "models/release/model.pt")
    with service(environment(MODEL=model)) as process:
        process.wait_for("ready")
        yield Target(process, process.url, psutil.Process(process.popen.pid))
        assert process.stop() == 0
