"""What glibc does with freed memory: keep it for the next step, or give it back to the kernel.

By itself it gives a block of more than 32 MiB back as soon as it is freed (`M_MMAP_THRESHOLD` in
mallopt(3)). A training step asks for hundreds of them, and each of their pages is faulted in and zeroed
anew: a third of the time on the machine where this was measured (docs/training.md).
"""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1  # the parameters' numbers, from glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_LARGEST: Final = 32 << 20
"""Bytes to which glibc's own threshold grows on 64 bits (`DEFAULT_MMAP_THRESHOLD_MAX`)."""


def keep_freed() -> bool:
    """Let this process and those it forks keep what they free; False where the C library cannot.

    A process then stays as large as it once was.
    """
    return _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})


def give_back() -> bool:
    """Undo `keep_freed`: as glibc is after some steps of a training that did nothing about it."""
    return _set({_MMAP_MAX: 65536, _MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: 2 * _LARGEST})


def _set(parameters: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and macOS have none
    return mallopt is not None and all(mallopt(name, value) for name, value in parameters.items())
