"""A CSV of names and labels in, the label of each photo out: how most labelled sets come.

`training.photos.sources` looks for such a table alongside the photos. One column names the photos (by path,
by file name, or by file name without suffix), another holds the labels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

from common.errors import PipelineError
from common.photos import is_leftover, label_of
from training.photos.layout import Layout

SUFFIXES: Final = (".csv", ".tsv")
_LABEL_COLUMNS: Final = ("label", "labels", "class", "classes", "class_name", "category", "target")
_ENOUGH: Final = 0.5  # share of a column's values that name a photo


def from_table(table: PurePosixPath, text: bytes, names: Collection[PurePosixPath]) -> Layout | None:
    """Labels from a table; None if it does not name the photos or holds no labels.

    Args:
        table: Name of the table, for the text and because names may be relative to its folder.
        text: Its bytes: CSV with a header, in UTF-8, separated by commas, semicolons or tabs.
        names: Every file of the source.
    """
    rows = _rows(text)
    photos = [name for name in names if not is_leftover(name) and name.suffix.lower() not in SUFFIXES]
    index = _index(photos, table.parent)
    if not rows or not photos:
        return None
    columns = list(rows[0])
    matches = {column: sum(row[column] in index for row in rows) for column in columns}
    path_column = max(columns, key=lambda column: matches[column])
    label_column = _label_column(rows, path_column)
    if matches[path_column] < _ENOUGH * len(rows) or label_column is None:
        return None
    targets, missing, unlabelled = {}, [], []
    for row in rows:
        name, label = index.get(row[path_column]), label_of(row[label_column])
        if name is None:
            missing.append(PurePosixPath(row[path_column] or "(no name)"))
        elif not label:
            unlabelled.append(name)
        else:
            _check_label(table, label)
            targets[name] = PurePosixPath(label, name)
    left_out = {
        f"rows of {table.name} that name no photo": missing,
        f"rows of {table.name} without a label": unlabelled,
        f"files that {table.name} does not name": [name for name in photos if name not in targets],
    }
    how = f"photos and labels from {table}, by its columns {path_column!r} and {label_column!r}"
    return Layout(how, targets, frozenset(), {reason: found for reason, found in left_out.items() if found})


def _rows(text: bytes) -> list[dict[str, str]]:
    """The rows by column; empty if the text is not a table with a header."""
    try:
        decoded = text.decode("utf-8-sig")
        header = decoded.split("\n", 1)[0]
        separator = max(",;\t", key=header.count)
        rows = list(csv.DictReader(io.StringIO(decoded, newline=""), delimiter=separator, strict=True))
    except (ValueError, csv.Error):
        return []
    return [
        {key: value.strip() for key, value in row.items() if isinstance(key, str) and value is not None}
        for row in rows
        if None not in row.values()
    ]


def _index(photos: Iterable[PurePosixPath], folder: PurePosixPath) -> Mapping[str, PurePosixPath]:
    """Each photo by all that a table may call it; what would mean two photos means none."""
    index: dict[str, PurePosixPath] = {}
    twice: set[str] = set()
    for photo in photos:
        called = {str(photo), photo.name, photo.stem, str(photo.with_suffix(""))}
        if photo.is_relative_to(folder):
            called |= {str(photo.relative_to(folder)), f"./{photo.relative_to(folder)}"}
        for name in called:
            if name in index:
                twice.add(name)
            index[name] = photo
    return {name: photo for name, photo in index.items() if name not in twice}


def _label_column(rows: list[dict[str, str]], path_column: str) -> str | None:
    """The column named as labels are; else the only other one, if its values repeat as labels do."""
    others = [column for column in rows[0] if column != path_column]
    named = [column for wanted in _LABEL_COLUMNS for column in others if column.strip().lower() == wanted]
    if named:
        return named[0]
    repeated = len(others) == 1 and 2 * len({row[others[0]] for row in rows}) <= len(rows)
    return others[0] if repeated else None


def _check_label(table: PurePosixPath, label: str) -> None:
    if "/" in label or "\\" in label or label in (".", ".."):
        raise PipelineError(
            f"{table} has the label {label!r}, which cannot be the name of a folder. Replace its slashes or "
            "dots."
        )
