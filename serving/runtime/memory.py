"""glibc's allocator: `serving.http.server` calls `bound` at the start, others `trim` after large work.

By default each thread that allocates may get an arena of its own, which keeps what it once needed. Elsewhere
than on glibc, both functions do nothing.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Final

_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2


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
