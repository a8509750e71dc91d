"""The one rule for which files are photos and which label a photo has.

Folders and lists in, paths and labels out. `training.photos.sources` takes what people bring by it, the
evaluation commands read labelled photos by it.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePath
from typing import Final

from common.errors import UserError

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_LEFTOVERS: Final = ("__MACOSX",)


class PhotosError(UserError):
    """There are no photos where they were expected, or their labels cannot be read."""


def is_leftover(path: PurePath) -> bool:
    """Whether an operating system left this file behind: it is no photo and no fault."""
    return not path.parts or any(
        part in _LEFTOVERS or (part.startswith(".") and part != "..") for part in path.parts
    )


def is_photo(path: Path) -> bool:
    """Whether a file's name is that of a photo."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def label_of(name: str) -> str:
    """The label that a folder's name, or a word in a list, stands for."""
    return name.strip().lower()


def find_photos(folder: Path) -> list[Path]:
    """The photos below a folder, in order of their paths."""
    return sorted(path for path in folder.rglob("*") if is_photo(path))


def find_labelled(source: Path) -> list[tuple[Path, str]]:
    """Photos with their labels: a folder with a sub-folder a class, or a CSV with columns path and label.

    Paths in a CSV are relative to its own folder.

    Raises:
        PhotosError: no such folder or table, another shape, or no photo in it.
    """
    if source.is_file():
        return _from_table(source)
    if not source.is_dir():
        raise PhotosError(
            f"There is no folder {source}. Name one with a sub-folder for each class, or a CSV."
        )
    found = [
        (path, label_of(path.relative_to(source).parts[0]))
        for path in find_photos(source)
        if len(path.relative_to(source).parts) > 1
    ]
    if not found:
        raise PhotosError(
            f"{source} has no labelled photos: expected {source}/<label>/<photo>, such as cat/1.jpg."
        )
    return found


def _from_table(path: Path) -> list[tuple[Path, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
    except (ValueError, csv.Error) as error:
        raise PhotosError(f"{path} is not a table: {error}.") from error
    if not {"path", "label"} <= set(columns):
        raise PhotosError(f"{path} must have the columns path and label; it has {', '.join(columns)}.")
    found = [(path.parent / str(row["path"]), label_of(str(row["label"]))) for row in rows]
    missing = [photo for photo, _ in found if not photo.is_file()]
    if missing:
        raise PhotosError(f"{path} names {missing[0]}, which is not there ({len(missing)} in all).")
    if not found:
        raise PhotosError(f"{path} names no photo.")
    return found
