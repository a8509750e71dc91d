"""`python -m serving export-review DB OUT`: export the photos that people labelled in review.

Writes `train/<label>/…` and `production/<label>/…`, each a folder that `make data ADD=…` and `make promote
LABELLED=…` take, and `labels.csv`. The photos that the random sample drew are in `production`: what is
measured on them holds for all photos only as long as nothing is trained on them. What is no label of a class
is in `apart/neither`, `apart/cannot-tell` and, where two people say different things, `apart/disagreed`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Final

from common import files
from serving.observers.export import ExportError, write_photo
from serving.observers.review import schema, verdicts

_COLUMNS: Final = ("request_id", "at", "prediction", "probability", "version", "reasons")
_PHOTOS: Final = f"""
select {", ".join(_COLUMNS)}, photo,
  max(sampled, exists (select 1 from photos twin where twin.same_as = photos.request_id and twin.sampled))
from photos where same_as is null and {verdicts.ANSWERED} order by at"""  # noqa: S608 (no value of a caller)
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
    counts: Counter[str] = Counter()
    try:
        with (
            contextlib.closing(schema.connect(database)) as opened,
            files.atomic_file(out / "labels.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow([*_COLUMNS, "verdicts", "path"])
            for *values, photo, sampled in opened.execute(_PHOTOS):
                said = opened.execute(_VERDICTS, (values[0],)).fetchall()
                folder = _folder({(verdict, label) for _, verdict, label in said}, sampled=bool(sampled))
                counts[folder] += 1
                who = "; ".join(f"{reviewer}: {label or verdict}" for reviewer, verdict, label in said)
                table.writerow([*values, who, write_photo(out, folder, values[0], photo)])
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
