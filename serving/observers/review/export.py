"""`python -m serving export-review DB OUT`: export the photos that people labelled in review.

Writes `train/<label>/…`, to be trained on, `production/<label>/…`, the test set of production, and
`labels.csv`; `make data ADD=…` takes all of it, `make promote LABELLED=…` the test set. The photos that the
random sample drew are in `production`: what is measured on them holds for all photos only as long as nothing
is trained on them. What is no label of a class is in `apart/neither`, `apart/cannot-tell` and, where two
people say different things, `apart/disagreed`. `GET /review/export` answers the same as a zip.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import shutil
import sqlite3
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from common import files
from serving.observers.export import ExportError, photo_name, write_photo
from serving.observers.review import schema, verdicts

TABLE: Final = "labels.csv"
_COLUMNS: Final = ("request_id", "at", "prediction", "probability", "version", "reasons")
_PHOTOS: Final = f"""
select {", ".join(_COLUMNS)}, photo,
  max(sampled, exists (select 1 from photos twin where twin.same_as = photos.request_id and twin.sampled))
from photos where same_as is null and {verdicts.ANSWERED}
  and request_id not in (select request_id from suspects) order by at"""  # noqa: S608 (no value of a caller)
_VERDICTS: Final = "select reviewer, verdict, label from verdicts where request_id = ? order by at, rowid"


def export(database: Path, out: Path) -> Counter[str]:
    """Write the labelled photos to the new folder `out`; return how many are in each folder of it.

    Raises:
        ExportError: the file does not exist or is no review database, or `out` holds something already.
    """
    if not database.exists():
        raise ExportError(
            f"There is no review database at {database}. Name the file that SERVING_REVIEW names."
        )
    if out.exists() and any(out.iterdir()):
        raise ExportError(f"{out} is not empty, and verdicts may have changed since. Name a new folder.")
    with (
        files.atomic_file(out / TABLE) as partial,
        partial.open("w", newline="", encoding="utf-8") as table,
    ):
        return _export(database, table, functools.partial(write_photo, out))


def pack(database: Path, archive: IO[bytes]) -> None:
    """Write the same as a zip, with no more than one photo in memory, and nothing on the disk but `archive`.

    Raises:
        ExportError: as for `export`.
    """
    with (
        zipfile.ZipFile(archive, "w") as content,
        tempfile.TemporaryFile(dir=database.parent) as rows,
        io.TextIOWrapper(rows, encoding="utf-8", newline="") as table,
    ):
        _export(database, table, content.writestr)
        table.flush()
        rows.seek(0)
        with content.open(TABLE, "w") as member:
            shutil.copyfileobj(rows, member)


def _export(database: Path, table: IO[str], write: Callable[[str, bytes], None]) -> Counter[str]:
    """Write the rows to `table` and each photo under its name; return how many are in each folder."""
    counts: Counter[str] = Counter()
    rows = csv.writer(table)
    rows.writerow([*_COLUMNS, "verdicts", "path"])
    try:
        with contextlib.closing(schema.connect(database)) as opened:
            for *values, photo, sampled in opened.execute(_PHOTOS):
                said = opened.execute(_VERDICTS, (values[0],)).fetchall()
                folder = _folder({(verdict, label) for _, verdict, label in said}, sampled=bool(sampled))
                counts[folder] += 1
                who = "; ".join(f"{reviewer}: {label or verdict}" for reviewer, verdict, label in said)
                name = photo_name(folder, values[0], photo)
                write(name, photo)
                rows.writerow([*values, who, name])
    except sqlite3.Error as error:
        raise ExportError(
            f"{database} is not a review database: {error}. Name the file that SERVING_REVIEW names."
        ) from error
    return counts


def _folder(said: set[tuple[str, str | None]], *, sampled: bool) -> str:
    """Where a photo belongs, by the different verdicts on it."""
    if len(said) > 1:
        return "apart/disagreed"
    ((verdict, label),) = said
    if label is None:
        return f"apart/{verdict}"
    return f"{'production' if sampled else 'train'}/{label}"


def main(arguments: list[str]) -> int:
    """Export, and print how much."""
    parser = argparse.ArgumentParser(prog="python -m serving export-review", description=__doc__)
    parser.add_argument("database", type=Path, help="the file that SERVING_REVIEW names")
    parser.add_argument("out", type=Path, help="new folder to write to")
    options = parser.parse_args(arguments)
    counts = export(options.database, options.out)
    print(f"{options.out}: {counts.total()} labelled photos")
    for folder, count in sorted(counts.items()):
        print(f"  {folder}: {count}")
    return 0
