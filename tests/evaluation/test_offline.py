"""A split is read as written, and evaluated through the handler that serves."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from common.manifest import ManifestError, labelled, read_manifest, read_split
from evaluation.__main__ import main
from evaluation.artefact import offline
from tests import tiny
from tests.pictures import encode, scene

LABELS = ("001", "nan", "true")


def prepare(folder: Path, labels: tuple[str, ...]) -> Path:
    """Write one photo per class in two splits, and their manifest into the same folder."""
    rows = []
    for split in ("validation", "test"):
        for label in labels:
            name = f"{label}/{split}.jpg"
            (folder / label).mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encode(scene(80, 60)))
            rows.append((name, label, split, f"{split}{label}"))
    table = pd.DataFrame(rows, columns=["path", "label", "split", "sha256"])
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of classes whose names look like values."""
    return prepare(tmp_path / "raw", LABELS)


@pytest.fixture
def prepared(workplace: Path, model: Path) -> Path:
    """An artefact and photos where the pipeline writes them, in the current folder."""
    prepare(workplace / "data/raw", ("cat", "dog"))
    (workplace / "data/prepared").mkdir()
    (workplace / "data/raw/manifest.csv").rename("data/prepared/manifest.csv")
    (workplace / "models").mkdir()
    (workplace / "models/model.pt").symlink_to(model)
    return workplace


def test_labels_that_look_like_values_stay_text(manifest: Path):
    """001 is not 1, true is not a boolean and nan is not missing."""
    rows = read_split(manifest, "test")
    assert tuple(rows["label"]) == LABELS
    assert labelled(rows, Path("raw"))[0] == (Path("raw/001/test.jpg"), "001")
    assert len(read_manifest(manifest)) == 6


def test_classes_named_like_values_are_evaluated(manifest: Path, workplace: Path):
    """From the manifest to the figures per class."""
    model = tiny.write_artifact(workplace / "model.pt", labels=LABELS)
    options = [
        "--model",
        str(model),
        "--manifest",
        str(manifest),
        "--raw",
        str(manifest.parent),
        "--split",
        "test",
    ]
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
    """With the next step."""
    if text is not None:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_split(tmp_path / "manifest.csv", "test")


@pytest.mark.parametrize(("limit", "status"), [(0.0, 0), (1.01, 1)])
def test_the_gates_decide_the_exit_status(prepared: Path, limit: float, status: int):
    """1 if a gate fails, with a report; with --report-only always 0."""
    Path("gates.yaml").write_text(f"offline: {{accuracy_min: {limit}}}")
    assert main(["offline", "--out", "out", "--gates", "gates.yaml"]) == status
    assert Path("out/plots/confusion_matrix.png").stat().st_size > 1000
    assert main(["offline", "--out", "out", "--gates", "gates.yaml", "--report-only"]) == 0


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--model", "damaged", "neither a complete TorchScript archive"),
        ("--model", None, "no model at"),
        ("--manifest", None, "no manifest at"),
        (
            "--manifest",
            "path,label,split,sha256\nbird/1.jpg,bird,validation,a\n",
            "A photo is labelled 'bird'",
        ),
        ("--gates", None, "no gates at"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_with_its_cause(
    prepared: Path, option: str, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 2, and no report."""
    if content is not None:
        Path("given").write_text(content)
    assert main(["offline", option, "given", "--out", "out"]) == 2
    assert words in capsys.readouterr().err
    assert not Path("out").exists()


def test_ctrl_c_while_evaluating_leaves_the_earlier_report(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Exit 130; the earlier figures stay."""
    Path("out").mkdir()
    Path("out/metrics.json").write_text("earlier")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(offline, "score", interrupted)
    assert main(["offline", "--out", "out"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in Path("out").iterdir()] == [("metrics.json", "earlier")]
