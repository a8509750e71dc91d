"""The ledger of the test sets: `data/test-ledger.csv` has a row for each model that was looked at on one.

The test split is one, the photos of production another. Choices are made on validation. A figure on photos by
which models were chosen is too good, and every further model that is looked at on them makes it a little more
so. The ledger is committed, and the model card says how many models were looked at on the test split.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
from pathlib import Path
from typing import Final

import msgspec
import pandas as pd

from common.errors import UserError
from common.files import write_text
from common.lineage import git_commit
from common.production import PRODUCTION
from serving.contract.artifact import Artifact

LEDGER: Final = Path("data/test-ledger.csv")
_COLUMNS: Final = ("date", "purpose", "model", "sha256", "photos", "split", "commit")
_TEST: Final = "test"
_SHOWN: Final = 12
"""Digits of a hash in the ledger."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact that was evaluated."""

    name: str = ""
    """From its card; empty in results from before it was stored."""
    version: str
    """As its card has it."""
    sha256: str
    """Of the file's bytes."""

    @classmethod
    def of(cls, artifact: Artifact) -> Model:
        """The record of an artefact."""
        return cls(name=artifact.card.name, version=artifact.card.version, sha256=artifact.sha256)


class LedgerError(UserError):
    """The ledger cannot be read; the text names the next step."""


def record(
    purpose: str, split: str, models: list[Model], rows: pd.DataFrame, path: Path = LEDGER
) -> int | None:
    """Add a row for each model that has none for these photos; return how many models these photos have.

    Args:
        purpose: The command that looks.
        split: Name of the split; None is returned, and nothing recorded, if it is no test set.
        models: That are looked at.
        rows: The split's rows of the manifest.
        path: The ledger; it is made if it is missing.

    Raises:
        LedgerError: the ledger is not a table of looks.
    """
    if split not in (_TEST, PRODUCTION):
        return None
    photos = hashlib.sha256("".join(sorted(rows["sha256"])).encode()).hexdigest()[:_SHOWN]
    looks = _read(path)
    for model in models:
        # Not the hash: a release writes another card around the same network.
        known = {"model": f"{model.name} {model.version}", "split": photos}
        if not any(look | known == look for look in looks):
            about = {
                "purpose": purpose if split == _TEST else f"{purpose} {split}",
                "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
                "sha256": model.sha256[:_SHOWN],
                "photos": str(len(rows)),
                "commit": git_commit()[:_SHOWN],
            }
            looks.append(known | about)
    lines = [",".join(_COLUMNS), *(",".join(look[name] for name in _COLUMNS) for look in looks)]
    write_text(path, "\n".join(lines) + "\n")
    return sum(look["split"] == photos for look in looks)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != _COLUMNS:
            raise LedgerError(
                f"{path} is not a ledger with the columns {', '.join(_COLUMNS)}. Restore it: git checkout "
                f"{path}."
            )
        return list(table)
