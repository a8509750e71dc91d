"""`python -m training fetch`: fetch the photos into data/raw; the variable DATA overrides the source.

The variable ADD names a source whose photos are added to those that are there: also a review or feedback
database of the service, or the address of its review.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import PipelineError
from training.config import DataConfig
from training.options import parse
from training.place import Place

if TYPE_CHECKING:
    from training.photos.report import Report

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
    from training.photos import adding, sources

    data, more = os.environ.get("DATA"), os.environ.get("ADD")  # locations, not parameters for DVC
    if data or not more:
        wanted = replace(settings.fetch, source=data or settings.fetch.source)
        if not data and not dry_run:
            _check_kept(wanted.source, place)
        _print("fetched", sources.fetch(wanted, place, dry_run=dry_run))
    if more:
        _print("there are now", adding.add(more, place, dry_run=dry_run))
    return 0


def _check_kept(source: str, place: Place) -> None:
    """Check that photos which somebody named are not replaced by those of the configured source.

    DVC would do it: it repeats this stage where `make data DATA=…` was cut off before it was recorded.

    Raises:
        PipelineError: there are photos of another source, or added ones.
    """
    from common import files
    from training.photos import report

    files.restore_folder(place.raw)
    if not (place.raw.is_dir() and any(place.raw.iterdir()) and place.fetch_report.exists()):
        return
    there = report.read(place.fetch_report)
    known = source == there.source or Path(source).name == there.name
    if there.added or not known:
        raise PipelineError(
            f"{place.raw} has {sum(there.files.values()):,} photos of {there.name}, which those of {source} "
            "would replace: make data DATA=… or ADD=… was interrupted, or the checkout or configs/data.yaml "
            "has changed. Run the interrupted command again, or get the photos that dvc.lock names: "
            "make data-pull. "
            f"To replace them: make data DATA={source}"
        )


def _print(what: str, report: Report | None) -> None:
    if report:
        counts = ", ".join(f"{label} {count:,}" for label, count in report.files.items())
        origin = f"{report.source} {report.name} (sha256 {report.sha256[:12]}…)"
        print(f"{what} {sum(report.files.values()):,} files from {origin}: {counts}")
