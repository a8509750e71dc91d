"""The audit finds swapped labels; reviewed labels reach training but not the test split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from common.errors import UserError
from common.production import PRODUCTION
from tests.once import Once
from tests.tiny import ROOT, data_config
from training.config import TrainConfig
from training.options import parse
from training.photos.catalogue import prepare
from training.photos.manifest import read_manifest
from training.place import Place
from training.study.suspects import audit

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WRONG = ("dog/3.jpg", "cat/5.jpg")


def config(*overrides: str) -> TrainConfig:
    """The packaged backbone at a small size."""
    options = ["--model.input_size", "160", *overrides]
    return parse(TrainConfig, ROOT / "configs/train.yaml", options, command="tests", about="")


@pytest.fixture(scope="module")
def drawn_wrong(once: Once, drawn: Place) -> Path:
    """Drawn pictures, prepared: a cat among the dogs and a dog among the cats."""

    def make(folder: Path) -> None:
        place = Place(folder)
        shutil.copytree(drawn.raw, place.raw)
        one, other = (place.raw / name for name in WRONG)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        prepare(data_config().prepare, place)

    return once("exchanged", make)


@pytest.fixture
def exchanged(tracked: Path, drawn_wrong: Path) -> Place:
    """A private folder with those pictures and a configuration to change."""
    shutil.copytree(drawn_wrong, tracked, dirs_exist_ok=True)
    (tracked / "configs").unlink()
    shutil.copytree(ROOT / "configs", tracked / "configs")
    return Place(tracked)


def test_photos_of_production_do_not_judge_others_and_are_not_judged(exchanged: Place):
    """What is a test set judges models alone; its labels come from people already."""
    table = pd.read_csv(exchanged.manifest, dtype=str, keep_default_na=False)
    table.loc[table["path"] == WRONG[0], "split"] = PRODUCTION
    table.to_csv(exchanged.manifest, index=False)
    (exchanged.raw / WRONG[0]).unlink()
    suspects = audit(config(), exchanged)
    assert WRONG[0] not in set(suspects["path"])
    assert suspects["path"].iloc[0] == WRONG[1]


def test_swapped_labels_are_the_first_suspects(exchanged: Place):
    """They rank first, the page shows them, and the MLflow run keeps both files."""
    suspects = audit(config(), exchanged)
    assert set(suspects["path"][:2]) == set(WRONG)
    assert (suspects["suggested"] != suspects["label"]).all()
    assert (suspects["suggested_probability"] > suspects["probability"]).all()
    page = (exchanged.audit / "suspects.html").read_text()
    assert page.count("<img") == len(suspects)
    assert all(name in page for name in WRONG)
    kept = {path.name for path in (exchanged.root / "mlruns").rglob("*/audit/*")}
    assert kept == {"suspects.csv", "suspects.html"}


def test_the_production_test_set_takes_no_part(exchanged: Place):
    """It is neither suspected nor does it judge others."""
    table = pd.read_csv(exchanged.manifest)
    table.loc[table["path"] == WRONG[0], "split"] = "production"
    table.to_csv(exchanged.manifest, index=False)
    suspects = audit(config(), exchanged)
    assert WRONG[0] not in set(suspects["path"])
    assert suspects["path"].iloc[0] == WRONG[1]
    assert "production" not in set(suspects["split"])


def test_reviewed_labels_reach_training_and_leave_the_test_split_unchanged(exchanged: Place):
    """Relabelled or excluded in train and validation; figures on the test split stay comparable."""
    table = pd.read_csv(exchanged.manifest)
    before = read_manifest(exchanged)
    chosen = table.groupby("split")["sha256"].first()
    other = {"cat": "dog", "dog": "cat"}
    labels = table.set_index("sha256")["label"]
    rows = [
        f"{chosen['train']},{other[labels[chosen['train']]]},",
        f"{chosen['validation']},,",
        f"{chosen['test']},,",
    ]
    exchanged.reviewed.write_text("\n".join(["sha256,label,note", *rows]) + "\n")
    after = read_manifest(exchanged)
    assert after.sha256 != before.sha256
    assert after.splits["test"] == before.splits["test"]
    assert len(after.splits["validation"].paths) == len(before.splits["validation"].paths) - 1
    changed = [
        a != b for a, b in zip(after.splits["train"].targets, before.splits["train"].targets, strict=True)
    ]
    assert sum(changed) == 1
    exchanged.reviewed.write_text("sha256,label,note\nx,,\nx,,\n")
    with pytest.raises(UserError, match="twice"):
        read_manifest(exchanged)


def test_an_audit_that_cannot_run_says_what_it_needs(exchanged: Place):
    """Pretrained weights, enough photos and a manifest."""
    with pytest.raises(UserError, match="pretrained"):
        audit(config("--model.weights", "none"), exchanged)
    table = pd.read_csv(exchanged.manifest)
    table[table["label"] == "cat"].head(3).to_csv(exchanged.manifest, index=False)
    with pytest.raises(UserError, match="5 photos of each class"):
        audit(config(), exchanged)
    exchanged.manifest.unlink()
    with pytest.raises(UserError, match="make data"):
        audit(config(), exchanged)
