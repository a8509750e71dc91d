"""The priority of a thread; `serving` gives the lowest one to what must not delay an answer."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Final

_LOWEST: Final = 19


def yield_to_others(thread: int | None = None) -> None:
    """Give a thread the lowest priority, where each thread has one of its own: on Linux.

    Args:
        thread: Its native id; the calling thread by default.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread or threading.get_native_id(), _LOWEST)
