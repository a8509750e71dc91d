"""The production test set: photos of a service's random sample that people labelled, never trained on.

`make data ADD=…` adds them from a review, `training.photos.prepare` makes them a split of the manifest.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

import msgspec

PRODUCTION: Final = "production"
"""Name of the split."""


class _Answers(msgspec.Struct):
    production_first: date | None = None


class _Batch(msgspec.Struct):
    review: _Answers | None = None


class _Report(msgspec.Struct):
    added: list[_Batch] = []


def since(fetch_report: Path) -> date | None:
    """The day (UTC) on which a service answered the first photo of the test set; None if there is none.

    Args:
        fetch_report: `data/fetch.json`, as `training.photos.report` describes it.
    """
    if not fetch_report.exists():
        return None
    report = msgspec.json.decode(fetch_report.read_bytes(), type=_Report)
    days = [batch.review.production_first for batch in report.added if batch.review]
    return min((day for day in days if day), default=None)
