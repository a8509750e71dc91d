"""Keep freed memory for the next training step.

By default glibc returns a freed block of more than 32 MiB, the size of many activations of a batch, to the
kernel at once (`M_MMAP_THRESHOLD` in mallopt(3)). Its pages are then faulted in and zeroed at every step
(figures: docs/experiments.md#freed-memory).
"""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1  # parameter numbers from glibc's malloc.h
_MMAP_MAX: Final = -4


def keep_freed() -> bool:
    """Make this process and its forks keep freed memory; return False where the C library cannot.

    A process then stays as large as its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and macOS have none
    return mallopt is not None and all((mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)))
