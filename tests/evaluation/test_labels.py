"""Reviewed labels: by content, whole or refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from common.labels import LabelsError, correct, read_reviewed
from tests.tiny import ROOT

MANIFEST = pd.DataFrame({"sha256": ["a", "b", "c"], "label": ["cat", "dog", "cat"]}, index=[7, 8, 9])


def reviewed(path: Path, *rows: str, header: str = "sha256,label,note") -> pd.DataFrame:
    """A list as a person writes it."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_reviewed(path)


def test_photos_are_relabelled_and_left_out(tmp_path: Path):
    """By hash; the other rows stay as they are, and hashes of photos that are not here do nothing."""
    found = correct(MANIFEST, reviewed(tmp_path / "l.csv", "a,dog,clear", "c,,a logo", "zz,cat,elsewhere"))
    assert found["label"].to_dict() == {7: "dog", 8: "dog"}


def test_no_list_changes_nothing(tmp_path: Path):
    """A repository for other classes has none."""
    assert correct(MANIFEST, read_reviewed(tmp_path / "none.csv")).equals(MANIFEST)


@pytest.mark.parametrize(
    ("header", "rows", "reason"),
    [
        ("sha,label", [], "columns sha256, label, note"),
        ("sha256,label,note", ["a,dog,", "a,cat,"], "photo a twice"),
        ("sha256,label,note", ["a,horse,"], "not a class: horse"),
        ("sha256,label,note", ["a,cat,", "b,cat,one, two"], "needs quotes"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path: Path, header: str, rows: list[str], reason: str):
    """With the reason."""
    with pytest.raises(LabelsError, match=reason):
        correct(MANIFEST, reviewed(tmp_path / "l.csv", *rows, header=header))


def test_the_list_of_this_repository_can_be_read():
    """Hashes of whole files, classes or nothing, and a reason for each."""
    table = read_reviewed(ROOT / "configs/labels.csv")
    assert table.index.str.fullmatch("[0-9a-f]{64}").all()
    assert set(table["label"]) <= {"", "cat", "dog"}
    assert table["note"].str.len().min() > 0
