"""Labels reviewed by a person: `configs/labels.csv` in, a corrected manifest out.

One row per photo: the `sha256` of its bytes, its `label` (a class, or empty to leave the photo out) and a
`note` that gives the reason. Content identifies a photo, so the list holds for anyone who has the photos.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common import files
from common.errors import UserError

if TYPE_CHECKING:  # a command's --help needs only the path, and does not wait for pandas
    import pandas as pd

REVIEWED: Final = Path("configs/labels.csv")
_COLUMNS: Final = ["sha256", "label", "note"]


class LabelsError(UserError):
    """The list of reviewed labels cannot be used; the text names the cause."""


def read_reviewed(path: Path = REVIEWED) -> pd.DataFrame:
    """The reviewed labels, indexed by sha256; empty if the file does not exist.

    Raises:
        LabelsError: the file is not a table, has other columns, or names a photo twice.
    """
    import pandas as pd

    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS).set_index("sha256")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise LabelsError(
            f"{path} is not a table: {str(error).strip()}. A note with a comma needs quotes."
        ) from error
    if list(table.columns) != _COLUMNS:
        raise LabelsError(
            f"{path} must have the columns {', '.join(_COLUMNS)}; it has {', '.join(table.columns)}."
        )
    twice = table["sha256"][table["sha256"].duplicated()]
    if len(twice):
        raise LabelsError(f"{path} names the photo {twice.iloc[0]} twice. Remove one of the rows.")
    return table.set_index("sha256")


def append_reviewed(rows: Iterable[tuple[str, str, str]], path: Path = REVIEWED) -> None:
    """Append rows of sha256, label and note to the list, atomically; what it has stays, byte for byte."""
    there = path.read_bytes() if path.exists() else ",".join(_COLUMNS).encode()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with files.atomic_file(path) as partial:
        partial.write_bytes(there.removesuffix(b"\n") + b"\n" + text.getvalue().encode())


def correct(manifest: pd.DataFrame, reviewed: pd.DataFrame) -> pd.DataFrame:
    """The manifest with the reviewed labels, without the photos that they leave out.

    Args:
        manifest: Has at least the columns `sha256` and `label`.
        reviewed: As returned by `read_reviewed`.

    Raises:
        LabelsError: the reviewed label of a photo in this manifest is not a class.
    """
    decided = reviewed["label"].to_dict()
    labels = [
        decided.get(sha, label) for sha, label in zip(manifest["sha256"], manifest["label"], strict=True)
    ]
    unknown = set(labels) - {""} - set(manifest["label"])
    if unknown:
        raise LabelsError(
            f"A reviewed label is not a class: {', '.join(sorted(unknown))}. Correct it in the list of "
            "reviewed labels."
        )
    corrected = manifest.assign(label=labels)
    return corrected[corrected["label"] != ""]
