"""The manifest: one row per photo that was kept, with its label and split.

`training.photos.prepare` writes it; training and evaluation read it here. Labels are text, whatever they look
like: a class may be named `001`, `true` or `nan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from common.errors import UserError
from common.production import PRODUCTION

_COLUMNS: Final = ("path", "label", "split", "sha256")


class ManifestError(UserError):
    """The manifest cannot be used; the text names the cause and the next step."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Every row, each column as text, with at least `path`, `label`, `split` and `sha256`.

    Raises:
        ManifestError: the file does not exist, is not a table or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise ManifestError(
            f"There is no manifest at {path}. Prepare the photos first: make data."
        ) from error
    except ValueError as error:  # pandas' parsing errors are ValueErrors
        raise ManifestError(
            f"{path} is not a table: {error}. Prepare the photos again: make data."
        ) from error
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ManifestError(f"{path} has no column {missing[0]}. Prepare the photos again: make data.")
    return table


def read_split(path: Path, split: str) -> pd.DataFrame:
    """The rows of one split, in the manifest's order.

    Raises:
        ManifestError: as for `read_manifest`, or the split has no photo.
    """
    table = read_manifest(path)
    rows = table[table["split"] == split]
    if rows.empty and split == PRODUCTION:
        raise ManifestError("No reviewed random sample has been added yet: make data ADD=… (docs/loop.md).")
    if rows.empty:
        raise ManifestError(
            f"{path} has no photo in the split {split!r}. Prepare the photos again: make data."
        )
    return rows


def labelled(rows: pd.DataFrame, raw: Path) -> list[tuple[Path, str]]:
    """The photo of each row, below the folder `raw`, and its label."""
    return [(raw / path, label) for path, label in zip(rows["path"], rows["label"], strict=True)]
