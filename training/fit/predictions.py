"""A network's predictions on a split: reads and writes `<split>_log_probabilities.csv` of the report.

The export calibrates with these tables, and the ablation compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True, slots=True)
class Predictions:
    """One split, in the manifest's order."""

    log_probabilities: npt.NDArray[np.float64]
    """`f64[N,K]`, rows whose exponentials sum to one."""
    targets: npt.NDArray[np.int64]
    """`i64[N]`, class numbers."""


def write(folder: Path, split: str, predictions: Predictions, labels: list[str]) -> None:
    """Write the table of one split to `folder`."""
    table = pd.DataFrame(predictions.log_probabilities, columns=labels)
    table.insert(0, "target", predictions.targets, allow_duplicates=True)  # a class may have that name too
    table.to_csv(_path(folder, split), index=False)


def read(folder: Path, split: str) -> Predictions:
    """Read the table of one split from `folder`."""
    table = pd.read_csv(_path(folder, split)).to_numpy(np.float64)
    return Predictions(table[:, 1:], table[:, 0].astype(np.int64))


def _path(folder: Path, split: str) -> Path:
    return folder / f"{split}_log_probabilities.csv"
