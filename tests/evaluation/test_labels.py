"""Reviewed labels apply by content; a faulty list is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from common.labels import LabelsError, correct, read_reviewed
from tests.tiny import ROOT

MANIFEST = pd.DataFrame({"sha256": ["a", "b", "c"], "label": ["cat", "dog", "cat"]}, index=[7, 8, 9])


def reviewed(path: Path, *rows: str, header: str = "sha256,label,note") -> pd.DataFrame:
    """Write and read a list, as a person writes it."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_reviewed(path)


def test_photos_are_relabelled_and_left_out(tmp_path: Path):
    """By hash; other rows stay unchanged, and hashes of absent photos have no effect."""
    found = correct(MANIFEST, reviewed(tmp_path / "l.csv", "a,dog,clear", "c,,a logo", "zz,cat,elsewhere"))
    assert found["label"].to_dict() == {7: "dog", 8: "dog"}


def test_no_list_changes_nothing(tmp_path: Path):
    """A project with other classes has none."""
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
def test_a_faulty_list_is_refused(tmp_path: Path, header: str, rows: list[str], reason: str):
    """With the reason."""
    with pytest.raises(LabelsError, match=reason):
        correct(MANIFEST, reviewed(tmp_path / "l.csv", *rows, header=header))


def test_the_list_of_this_repository_can_be_read():
    """Full hashes, known classes or none, and a reason for each."""
    table = read_reviewed(ROOT / "configs/labels.csv")
    assert table.index.str.fullmatch("[0-9a-f]{64}").all()
    assert set(table["label"]) <= {"", "cat", "dog"}
    assert table["note"].str.len().min() > 0
