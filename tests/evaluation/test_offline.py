"""The test split is read as it is written, and scored through the handler that serves."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from common.manifest import ManifestError, labelled, read_manifest, read_split
from evaluation.__main__ import main
from tests import tiny
from tests.pictures import encode, scene

LABELS = ("001", "nan", "true")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A photo of each class in each split; the classes' names look like values."""
    rows = []
    for split in ("train", "test"):
        for label in LABELS:
            name = f"{label}/{split}.jpg"
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(encode(scene(80, 60)))
            rows.append((name, label, split, f"{split}{label}"))
    pd.DataFrame(rows, columns=["path", "label", "split", "sha256"]).to_csv(
        tmp_path / "manifest.csv", index=False
    )
    return tmp_path / "manifest.csv"


def test_labels_that_look_like_values_stay_text(manifest: Path):
    """001 is not 1, true no truth and nan not missing."""
    rows = read_split(manifest, "test")
    assert tuple(rows["label"]) == LABELS
    assert labelled(rows, Path("raw"))[0] == (Path("raw/001/test.jpg"), "001")
    assert len(read_manifest(manifest)) == 6


def test_classes_named_like_values_are_evaluated(manifest: Path, workplace: Path):
    """From the manifest to the figures by class."""
    model = tiny.write_artifact(workplace / "model.pt", labels=LABELS)
    options = ["--model", str(model), "--manifest", str(manifest), "--raw", str(manifest.parent)]
    assert main(["offline", *options, "--out", "out", "--report-only"]) == 0
    figures = json.loads(Path("out/metrics.json").read_text())
    assert figures["n"] == 3
    assert set(figures["recall"]) == set(LABELS)
    assert (figures["model"]["name"], figures["mlflow_run_id"]) == ("tiny", "run")
    assert list(pd.read_csv("out/plots/predictions.csv", dtype=str, keep_default_na=False)["actual"]) == list(
        LABELS
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no manifest at .* make data"),
        ("", "is not a table"),
        ("path,label,split\n1.jpg,cat,test", "has no column sha256"),
        ("path,label,split,sha256\n1.jpg,cat,train,a", "no photo in the split 'test'"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error_with_its_cause(
    tmp_path: Path, text: str | None, words: str
):
    """And the next step."""
    if text is not None:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_split(tmp_path / "manifest.csv", "test")
