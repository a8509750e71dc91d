"""Labels that a person has reviewed: `configs/labels.csv` in, a corrected manifest out.

One row a photo: `sha256` of its bytes, `label` (a class, or empty: show it to no model), and a `note`
that says why. Photos are named by their content, so the list holds for whoever has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import UserError

if TYPE_CHECKING:  # who only needs the path, as a command's --help does, does not wait for it
    import pandas as pd

REVIEWED: Final = Path("configs/labels.csv")
_COLUMNS: Final = ["sha256", "label", "note"]


class LabelsError(UserError):
    """The list cannot be used; the text names the cause."""


def read_reviewed(path: Path = REVIEWED) -> pd.DataFrame:
    """The reviewed labels, indexed by sha256; none where there is no such file.

    Raises:
        LabelsError: not a table, other columns, or a photo that is named twice.
    """
    import pandas as pd

    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS).set_index("sha256")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise LabelsError(f"{path} is no table: {error}. A note with a comma needs quotes.") from error
    if list(table.columns) != _COLUMNS:
        raise LabelsError(f"{path} must have the columns {', '.join(_COLUMNS)}.")
    twice = table["sha256"][table["sha256"].duplicated()]
    if len(twice):
        raise LabelsError(f"{path} names the photo {twice.iloc[0]} twice.")
    return table.set_index("sha256")


def correct(manifest: pd.DataFrame, reviewed: pd.DataFrame) -> pd.DataFrame:
    """The manifest's rows with reviewed labels, without those that are left out.

    Args:
        manifest: Columns `sha256` and `label` at least.
        reviewed: As `read_reviewed` gives it.

    Raises:
        LabelsError: a reviewed photo of this manifest has a label that is no class.
    """
    decided = reviewed["label"].to_dict()
    labels = [
        decided.get(sha, label) for sha, label in zip(manifest["sha256"], manifest["label"], strict=True)
    ]
    unknown = set(labels) - {""} - set(manifest["label"])
    if unknown:
        raise LabelsError(f"A reviewed label is no class: {', '.join(sorted(unknown))}.")
    corrected = manifest.assign(label=labels)
    return corrected[corrected["label"] != ""]
