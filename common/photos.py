"""Which files are photos, and which label each photo has: one rule for the whole project.

Folders and lists in, paths and labels out. `training.photos.sources` reads a person's own photos with this
rule, the evaluation commands read labelled photos with it.
"""

from __future__ import annotations

import csv
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

from common.errors import UserError

SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
)
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"BM")
_CONTAINERS: Final = {b"WEBP", b"ftypavif", b"ftypavis"}
"""What stands behind the first eight or four bytes: WebP and AVIF."""
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
    """Whether `path` is a photo: by its suffix or, if that is missing or unknown, by its first bytes."""
    if is_leftover(PurePath(path.name)) or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(_SIGNATURES) or head[8:] in _CONTAINERS or head[4:] in _CONTAINERS


def label_of(name: str) -> str:
    """The label that a folder's name or an entry in a list stands for: the same for all who write it."""
    return unicodedata.normalize("NFC", name.strip().lower())


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk` with links followed; a folder that contains itself through a link is entered once."""
    entered: set[tuple[int, int]] = set()
    for inside, names, files in os.walk(folder, followlinks=True):
        names.sort()
        for name in list(names):
            status = Path(inside, name).stat()
            if (status.st_dev, status.st_ino) in entered:
                names.remove(name)
            entered.add((status.st_dev, status.st_ino))
        yield Path(inside), names, [name for name in files if Path(inside, name).is_file()]


def find_photos(folder: Path) -> list[Path]:
    """The photos below a folder, sorted by path."""
    return [path for path in _files(folder) if is_photo(path)]


def _files(folder: Path) -> list[Path]:
    """The files below a folder, sorted by path, without what systems leave behind."""
    paths = (Path(inside, name) for inside, _, names in walk(folder) for name in names)
    return sorted(path for path in paths if not is_leftover(path.relative_to(folder)))


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
    files = [path for path in _files(source) if len(path.relative_to(source).parts) > 1]
    found = [(path, label_of(path.relative_to(source).parts[0])) for path in files if is_photo(path)]
    if not found:
        raise PhotosError(
            f"{source} has no labelled photos: expected {source}/<label>/<photo>, such as cat/1.jpg."
        )
    photos = {path for path, _ in found}
    others = [path for path in files if path not in photos]
    empty = {label_of(path.relative_to(source).parts[0]) for path in others} - {label for _, label in found}
    if empty:
        raise PhotosError(
            f"The class {min(empty)!r} has no photo that can be read, only files such as "
            f"{next(path for path in others if label_of(path.relative_to(source).parts[0]) == min(empty))}. "
            "Save them as JPEG, or move the folder away."
        )
    if others:
        print(f"left out as no photos: {len(others):,}, such as {others[0]}", file=sys.stderr)
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
    found = [(_named(path.parent, str(row["path"])), label_of(str(row["label"]))) for row in rows]
    missing = [photo for photo, _ in found if not photo.is_file()]
    if missing:
        raise PhotosError(
            f"{path} names {missing[0]}, which does not exist (missing in all: {len(missing)}). Paths are "
            "relative to the CSV's folder."
        )
    if not found:
        raise PhotosError(f"{path} names no photos. Add one row per photo.")
    return found


def _named(folder: Path, name: str) -> Path:
    """The file that a table names; an accent may be written in two ways, as one character or as two."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((folder / form for form in forms if (folder / form).is_file()), folder / name)


def read_names(path: Path) -> Iterator[Path]:
    """The photos that a list names, one a line, relative to the folder of the list.

    One after another, because a path takes 300 bytes and a list may name a million.

    Raises:
        PhotosError: it is not a text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PhotosError(f"{path} is not a list of names in UTF-8. Save it so, one path a line.") from error
    return (_named(path.parent, line.strip()) for line in lines if line.strip())
