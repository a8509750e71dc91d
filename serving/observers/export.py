"""`python -m serving export-feedback DB OUT`: export the labelled answers of a feedback database.

Writes `labels.csv` and, for each photo that the service stored, `<label>/<request id>.<format>`: a folder for
`make train DATA=…`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sqlite3
from pathlib import Path
from typing import Final

from common import files
from common.errors import UserError
from serving.contract.structure.sniff import format_of
from serving.observers.feedback import connect

_COLUMNS: Final = ("request_id", "at", "prediction", "probability", "version", "label", "labelled_at")


class ExportError(UserError):
    """The database cannot be exported; the text names the cause and the next step."""


def export(database: Path, out: Path) -> tuple[int, int]:
    """Write the labelled answers to the folder `out`, alongside what it already holds.

    Returns:
        The number of labelled answers, and how many of them have a photo.

    Raises:
        ExportError: the file does not exist, or is not a feedback database.
    """
    if not database.exists():
        raise ExportError(
            f"There is no feedback database at {database}. Name the file that SERVING_FEEDBACK names."
        )
    query = f"select {', '.join(_COLUMNS)}, photo from answers where label is not null order by labelled_at"  # noqa: S608
    count = photos = 0
    try:
        with (
            contextlib.closing(connect(database)) as opened,
            files.atomic_file(out / "labels.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow([*_COLUMNS, "path"])
            for *values, photo in opened.execute(query):
                name = photo_name(values[5], values[0], photo) if photo else ""
                if name:
                    write_photo(out, name, photo)
                    photos += 1
                table.writerow([*values, name])
                count += 1
    except sqlite3.Error as error:
        raise ExportError(
            f"{database} is not a feedback database: {error}. Name the file that SERVING_FEEDBACK names."
        ) from error
    return count, photos


def photo_name(folder: str, request_id: str, photo: bytes) -> str:
    """The path of a photo in an export."""
    return f"{folder}/{request_id}.{format_of(photo).lower()}"


def write_photo(out: Path, name: str, photo: bytes) -> None:
    """Write one photo to its path in `out`."""
    with files.atomic_file(out / name) as partial:
        partial.write_bytes(photo)


def main(arguments: list[str]) -> int:
    """Export, and print how much."""
    parser = argparse.ArgumentParser(prog="python -m serving export-feedback", description=__doc__)
    parser.add_argument("database", type=Path, help="the file that SERVING_FEEDBACK names")
    parser.add_argument("out", type=Path, help="folder to write to")
    options = parser.parse_args(arguments)
    count, photos = export(options.database, options.out)
    print(f"{options.out}: {count} labelled answers, {photos} with their photo")
    return 0
