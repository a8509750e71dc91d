"""The audit finds labels that were exchanged, and what is reviewed reaches training and not test."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pandas as pd
import pytest

from common.errors import PipelineError
from tests.tiny import ROOT, data_config
from training import place
from training.config import TrainConfig, parse
from training.photos.data import read_manifest
from training.photos.prepare import prepare
from training.photos.sources import fetch
from training.study.audit import audit

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WRONG = ("dog/3.jpg", "cat/5.jpg")


def config(*overrides: str) -> TrainConfig:
    """The packaged backbone at a small size."""
    return parse(
        TrainConfig,
        str(ROOT / "configs/train.yaml"),
        ["--model.input_size", "160", *overrides],
        prog="",
        about="",
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures, prepared: a cat among the dogs and a dog among the cats."""
    folder = tmp_path_factory.mktemp("exchanged")
    with contextlib.chdir(folder):
        fetch(data_config("--fetch.source", "sample", "--fetch.sample_per_class", "40").fetch)
        one, other = (place.RAW / name for name in WRONG)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        prepare(data_config().prepare)
    return folder


@pytest.fixture
def exchanged(workplace: Path, drawn: Path) -> Path:
    """A place of its own with those pictures and a configuration to change."""
    shutil.copytree(drawn, workplace, dirs_exist_ok=True)
    (workplace / "configs").unlink()
    shutil.copytree(ROOT / "configs", workplace / "configs")
    return workplace


def test_exchanged_labels_are_the_first_suspects(exchanged: Path):
    """They rank first, the page shows them, and the run in MLflow keeps both files."""
    suspects = audit(config())
    assert set(suspects["path"][:2]) == set(WRONG)
    assert (suspects["suggested"] != suspects["label"]).all()
    page = (exchanged / "build/audit/suspects.html").read_text()
    assert page.count("<img") == len(suspects)
    assert all(name in page for name in WRONG)
    kept = {path.name for path in (exchanged / "mlruns").rglob("*/audit/*")}
    assert kept == {"suspects.csv", "suspects.html"}


def test_reviewed_labels_reach_training_and_leave_test_as_it_was_found(exchanged: Path):
    """Relabelled in train and validation; the test split's figures stay comparable."""
    table = pd.read_csv(place.MANIFEST)
    before = read_manifest()
    chosen = table.groupby("split")["sha256"].first()
    other = {"cat": "dog", "dog": "cat"}
    labels = table.set_index("sha256")["label"]
    rows = [
        f"{chosen['train']},{other[labels[chosen['train']]]},",
        f"{chosen['validation']},,",
        f"{chosen['test']},,",
    ]
    (exchanged / "configs/labels.csv").write_text("\n".join(["sha256,label,note", *rows]) + "\n")
    after = read_manifest()
    assert after.sha256 != before.sha256
    assert after.splits["test"] == before.splits["test"]
    assert len(after.splits["validation"].paths) == len(before.splits["validation"].paths) - 1
    changed = [
        a != b for a, b in zip(after.splits["train"].targets, before.splits["train"].targets, strict=True)
    ]
    assert sum(changed) == 1
    (exchanged / "configs/labels.csv").write_text("sha256,label,note\nx,,\nx,,\n")
    with pytest.raises(PipelineError, match="twice"):
        read_manifest()


def test_what_the_audit_needs_is_said(exchanged: Path):
    """Weights, photos and a manifest."""
    with pytest.raises(PipelineError, match="pretrained"):
        audit(config("--model.pretrained", "false"))
    table = pd.read_csv(place.MANIFEST)
    table[table["label"] == "cat"].head(3).to_csv(place.MANIFEST, index=False)
    with pytest.raises(PipelineError, match="5 photos of each class"):
        audit(config())
    place.MANIFEST.unlink()
    with pytest.raises(PipelineError, match="make data"):
        audit(config())
