"""Make costly things once per test session, in whichever of its processes needs them first."""

from __future__ import annotations

import fcntl
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path


class Once:
    """Folders that all processes of a session share."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def __call__(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder `name`; `make` fills it unless another process already has."""
        folder = self._shared / name
        done = folder.with_name(f"{name}.done")
        with folder.with_name(f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a failed attempt
                folder.mkdir()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # from libraries; the first test is not to blame
                    make(folder)
                done.touch()
        return folder
