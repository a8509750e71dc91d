"""`python -m training fetch`: fetch the photos into data/raw; the variable DATA overrides the source."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from training.config import DataConfig
from training.options import parse
from training.place import Place

_DRY_RUN: Final = "--dry-run"


def main(arguments: list[str]) -> int:
    """Fetch as configured; print what is understood of the source, and what was fetched.

    With `--dry-run`, which must come first, print only that and copy nothing.
    """
    dry_run = arguments[:1] == [_DRY_RUN]
    place = Place()
    settings = parse(
        DataConfig,
        place.data_config,
        arguments[dry_run:],
        command="fetch",
        about=__doc__ or "",
        uses=("fetch",),
    )
    from training.photos import sources

    wanted = os.environ.get("DATA") or settings.fetch.source  # a location, not a parameter for DVC
    report = sources.fetch(replace(settings.fetch, source=wanted), place, dry_run=dry_run)
    if report:
        counts = ", ".join(f"{count} {label}" for label, count in report.files.items())
        print(f"fetched {counts} from {report.source} {report.name} (sha256 {report.sha256[:12]}…)")
    return 0
