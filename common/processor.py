"""The processor: how many cores this process may use, and the priority of a thread."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LOWEST: Final = 19


def cores(root: Path = Path("/")) -> int:
    """The number of cores this process may use: those it is bound to, or fewer if a cgroup limits its time.

    A container's limit of 2 processors on a machine of 64 shows in no affinity. Part of a core counts as one.

    Args:
        root: Where `proc` and `sys` are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The limits on processor time, in cores, of the process's cgroup and those above it, version 2 or 1."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            own = mount / path.strip("/")
            for folder in (own, *own.parents):
                yield from _quota(folder)
                if folder == mount:
                    break


def _quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
        quota, period = map(int, (folder / "cpu.max").read_text().split())
        yield quota / period
    with contextlib.suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            yield quota / int((folder / "cpu.cfs_period_us").read_text())


def yield_to_others(thread: int | None = None) -> None:
    """Give a thread the lowest priority, where each thread has one of its own: on Linux.

    Args:
        thread: Its native id; the calling thread by default.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread or threading.get_native_id(), _LOWEST)
