"""The allocator and the garbage collector, which both hold up requests if left alone.

`serving.http.server` calls `bound` at the start, `serving.models` calls `settle` and `trim`, the engine's
watch `Trimmer.check`. By default each thread that allocates may get one of glibc's arenas of its own, which
keeps what it once needed. Elsewhere than on glibc, `bound` and `trim` do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import time
from pathlib import Path
from typing import Final

_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
_GROWN_BYTES: Final = 48_000_000
_PAUSE_SECONDS: Final = 5.0
"""Between two looks: a trim holds up whoever allocates, for some milliseconds."""
_STATM: Final = Path("/proc/self/statm")


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def bound() -> None:
    """Share two arenas among all threads."""
    if library := _glibc():
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def trim() -> None:
    """Return free memory to the operating system: some milliseconds, without the interpreter lock."""
    if library := _glibc():
        library.malloc_trim(0)


def settle() -> None:
    """Exempt what exists from garbage collection, once what lives as long as the process is there.

    A full collection over all of torch's objects takes a fifth of a second and holds the interpreter lock.
    """
    gc.collect()
    gc.freeze()


class Trimmer:
    """Returns free memory whenever the process has grown.

    Bodies of a megabyte come and go a hundred times a second, and what they leave between smaller blocks is
    only returned on demand.
    """

    def __init__(self) -> None:
        self._level, self._checked = 0, 0.0

    def check(self) -> None:
        """Trim if resident memory is well above what the last trim left."""
        if not _STATM.exists() or time.monotonic() - self._checked < _PAUSE_SECONDS:
            return
        self._checked = time.monotonic()
        if _resident_bytes() > self._level + _GROWN_BYTES:
            trim()
            self._level = _resident_bytes()


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
