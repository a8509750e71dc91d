"""Which of several processes this is, and waiting for the first one.

`torchrun` and Lightning's own launcher name a process by the same variables of the environment.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_POLL_SECONDS = 0.2


def rank() -> int:
    """Number of this process among all, 0 for the first or only one."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def wait_for(path: Path) -> None:
    """Return when the first process has put `path` into its place; its end ends the others too."""
    while not path.exists():
        time.sleep(_POLL_SECONDS)
