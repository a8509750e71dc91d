"""Which files are photos, and which label each photo has: one rule for the whole project.

Folders and lists in, paths and labels out. `training.photos.sources` reads a person's own photos with this
rule, the evaluation commands read labelled photos with it.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePath
from typing import Final

from common.errors import UserError

SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
)
_LEFTOVERS: Final = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"),
    }
)


class PhotosError(UserError):
    """There are no photos where some were expected, or their labels cannot be read."""


def is_leftover(path: PurePath) -> bool:
    """Whether an operating system or a photo tool left this file behind: neither a photo nor an error."""
    return not path.parts or any(
        part.lower() in _LEFTOVERS or (part.startswith(".") and part != "..") for part in path.parts
    )


def is_photo(path: Path) -> bool:
    """Whether `path` is a file with a photo's suffix."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def label_of(name: str) -> str:
    """The label that a folder's name or an entry in a list stands for."""
    return name.strip().lower()


def find_photos(folder: Path) -> list[Path]:
    """The photos below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_photo(path))


def find_labelled(source: Path) -> list[tuple[Path, str]]:
    """Photos with their labels: from a folder with one sub-folder per class, or a CSV with path and label.

    Paths in a CSV are relative to its own folder.

    Raises:
        PhotosError: the folder or table does not exist, has another structure or contains no photo.
    """
    if source.is_file():
        return _from_table(source)
    if not source.is_dir():
        raise PhotosError(
            f"There is no folder {source}. Name one with a sub-folder for each class, or a CSV file with the "
            "columns path and label."
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
        raise PhotosError(f"{path} is not a table: {error}. Save it as CSV in UTF-8.") from error
    if not {"path", "label"} <= set(columns):
        raise PhotosError(
            f"{path} must have the columns path and label; it has {', '.join(columns) or 'none'}."
        )
    found = [(path.parent / str(row["path"]), label_of(str(row["label"]))) for row in rows]
    missing = [photo for photo, _ in found if not photo.is_file()]
    if missing:
        raise PhotosError(
            f"{path} names {missing[0]}, which does not exist (missing in all: {len(missing)}). Paths are "
            "relative to the CSV's folder."
        )
    if not found:
        raise PhotosError(f"{path} names no photos. Add one row per photo.")
    return found
