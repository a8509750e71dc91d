"""What `python -m serving export-review` wrote in, the place and the facts of each photo out.

It is recognised by the columns of its `labels.csv`, which is no table of labels: `train/<label>/…` is to be
trained on, `production/<label>/…` is the production test set, and `apart/<reason>/…` is neither.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import Final

from common.errors import PipelineError
from common.photos import is_leftover, label_of
from common.production import PRODUCTION
from training.photos.layout import Layout, labels_of
from training.photos.listing import Listing
from training.photos.report import Answers

TABLE: Final = "labels.csv"
_COLUMNS: Final = {"request_id", "at", "version", "verdicts", "path"}
_NOTHING: Final = "nobody has labelled a photo in this review yet; label some at /review"
_TRAIN, _APART = "train", "apart"
_NO_LABELS: Final = ("neither", "cannot-tell")


@dataclass(frozen=True, slots=True)
class Review:
    """An export: what was understood of its files, and its table."""

    layout: Layout
    rows: Mapping[PurePosixPath, Mapping[str, str]]
    """The row of each photo, by its name in the source."""
    apart: Mapping[str, Sequence[PurePosixPath]]
    """The photos kept apart, by reason."""

    def answers(self, photos: Collection[PurePosixPath], labels: Iterable[str]) -> Answers:
        """The facts of some of the photos.

        Args:
            photos: Those that are added, by their names in the source.
            labels: The classes, to tell where a person's name ends.
        """
        said = re.compile(f"(.+?): (?:{'|'.join(map(re.escape, (*labels, *_NO_LABELS)))})(?:; |$)")
        rows = {name: self.rows[name] for name in photos if name in self.rows}
        days = {name: _day(row["at"]) for name, row in rows.items()}
        drawn = [day for name, day in days.items() if name in self.layout.production]
        return Answers(
            min(days.values(), default=None),
            max(days.values(), default=None),
            min(drawn, default=None),
            sorted({row["version"] for row in rows.values()}),
            len({person for row in rows.values() for person in said.findall(row["verdicts"])}),
            {reason: len(names) for reason, names in self.apart.items()},
        )


def find(listing: Listing) -> Review | None:
    """Read an export of a review, wherever in the source it lies; None if there is none."""
    for table in sorted(listing.sizes, key=lambda name: len(name.parts)):
        if table.name == TABLE and not is_leftover(table):
            with listing.open(table) as file:
                rows = _rows(file.read())
            if rows is not None:
                return _understood(listing, table, rows)
    return None


def _rows(text: bytes) -> list[dict[str, str]] | None:
    """The rows by column; None if it is another table.

    Raises:
        PipelineError: a row lacks columns, as the last one of a table that was cut off.
    """
    try:
        reader = csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True)
        rows = list(reader)
    except (ValueError, csv.Error):
        return None
    if not set(reader.fieldnames or ()) >= _COLUMNS:
        return None
    if short := next((row for row in rows if None in row.values()), None):
        raise PipelineError(
            f"{TABLE} of the review ends early in the row of {short['request_id']}. Export it again."
        )
    return rows


def _understood(listing: Listing, table: PurePosixPath, rows: list[dict[str, str]]) -> Review:
    targets: dict[PurePosixPath, PurePosixPath] = {}
    production: set[PurePosixPath] = set()
    apart: dict[str, list[PurePosixPath]] = defaultdict(list)
    others: list[PurePosixPath] = []
    folders: set[str] = set()
    for name in listing.sizes:
        if name == table or is_leftover(name):
            continue
        parts = name.relative_to(table.parent).parts if name.is_relative_to(table.parent) else ()
        part, folder, rest = (parts[0], parts[1], parts[2:]) if len(parts) > 2 else ("", "", ())
        if part in (_TRAIN, PRODUCTION):
            targets[name] = PurePosixPath(label_of(folder), *rest)
            folders.add(folder)
            production |= {name} if part == PRODUCTION else set()
        elif part == _APART:
            apart[folder].append(name)
        else:
            others.append(name)
    labels_of(folders)  # two that differ only in case would share their targets
    left_out = {f"kept apart ({reason})": names for reason, names in sorted(apart.items())}
    left_out |= {"files outside of train, production and apart": others} if others else {}
    said = f"labelled in review, by {table}" if targets or apart else _NOTHING
    layout = Layout(said, targets, left_out=left_out, production=frozenset(production))
    by_name = {table.parent / row["path"]: row for row in rows}
    return Review(layout, by_name, dict(sorted(apart.items())))


def _day(seconds: str) -> date:
    """The day, in UTC, of a time in seconds since the epoch."""
    try:
        return datetime.fromtimestamp(float(seconds), UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        raise PipelineError(
            f"{TABLE} of the review has the time {seconds!r}, which is no number of seconds. Export it again."
        ) from error
