"""Keep the memory that is freed, for the next step of a training.

By itself glibc gives a block of more than 32 MiB, as many activations of a batch are, back to the kernel as
soon as it is freed (`M_MMAP_THRESHOLD` in mallopt(3)). Each of its pages is then faulted in and zeroed anew,
step by step (figures: docs/experiments.md).
"""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1  # the parameters' numbers, from glibc's malloc.h
_MMAP_MAX: Final = -4


def keep_freed() -> bool:
    """Let this process and those it forks keep what they free; False where the C library cannot.

    A process then stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and macOS have none
    return mallopt is not None and all((mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)))
