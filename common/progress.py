"""Progress of a long task: rate and time left, readable on a terminal and in a log."""

from __future__ import annotations

import sys
from typing import Any, Final

from tqdm import tqdm

_LOG_SECONDS: Final = 10.0


def progress(title: str | None, total: int | None, unit: str, **options: Any) -> tqdm[Any]:
    """A bar on a terminal; a line every ten seconds in a file or a pipe.

    Args:
        title: Shown before the bar.
        total: Number of units; None if unknown.
        unit: Plural noun, such as photos.
        **options: Passed to `tqdm`.
    """
    interval = 0.1 if sys.stderr.isatty() else _LOG_SECONDS
    return tqdm(
        desc=title, total=total, unit=f" {unit}", mininterval=interval, maxinterval=interval, **options
    )
