"""The production test set is a split of its own: nothing near it is trained on, and the test split stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.manifest import ManifestError, read_split
from common.production import PRODUCTION, since
from tests.once import Once
from tests.pictures import encode
from tests.tiny import data_config
from training.photos import catalogue
from training.photos.drawn import draw
from training.photos.manifest import Split, read_manifest
from training.place import Place

CONFIG = data_config().prepare
PLACE = Place()
"""The current folder, which is empty in each test."""
FOLDER, TRAINED = "production-12345678", "added-12345678"


def picture(label: str, number: int, side: int = 0) -> bytes:
    """A drawn animal, unlike any other; of another size, a near-duplicate."""
    image = draw(label, np.random.default_rng((5, ord(label[0]), number)))
    return encode(image.resize((side, side)) if side else image, quality=90)


def write(name: str, data: bytes) -> None:
    """Write a raw file."""
    path = PLACE.raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def prepared(workplace: Path, once: Once) -> pd.Series:
    """Twenty drawn cats and twenty dogs, prepared: the split of each."""

    def make(folder: Path) -> None:
        place = Place(folder)
        for label in ("cat", "dog"):
            (place.raw / label).mkdir(parents=True)
            for number in range(20):
                (place.raw / f"{label}/{number}.jpg").write_bytes(picture(label, number))
        catalogue.prepare(CONFIG, place)

    shutil.copytree(once("production", make), workplace, dirs_exist_ok=True)
    return pd.read_csv(PLACE.manifest).set_index("path")["split"]


def splits(*folders: str) -> pd.Series:
    """Prepare, with these folders as production's; the split of each photo."""
    batch = {"source": "review", "name": "r.db", "sha256": "0", "added": "2026-12-01"}
    batch |= {"files": {folder: {"cat": 1} for folder in (*folders, TRAINED)}}
    added = [batch] if folders else []
    PLACE.fetch_report.write_text(json.dumps({"production": folders, "added": added}))
    catalogue.prepare(CONFIG, PLACE)
    return pd.read_csv(PLACE.manifest).set_index("path")["split"]


def dropped() -> dict[str, str]:
    """Reason by path."""
    table = pd.read_csv(PLACE.dropped)
    return dict(zip(table["path"], table["reason"], strict=True))


def of_split(table: pd.Series, label: str, split: str) -> int:
    """The number of a photo of a class in a split."""
    names = table.index[(table == split) & table.index.str.startswith(label)]
    return int(Path(names[0]).stem)


def test_photos_of_production_are_a_split_and_change_no_other(prepared: pd.Series):
    """Also when they come again, and when others join them."""
    write(f"cat/{FOLDER}/a.jpeg", picture("cat", 100))
    first = splits(FOLDER)
    assert first.drop(f"cat/{FOLDER}/a.jpeg").equals(prepared)
    assert first[f"cat/{FOLDER}/a.jpeg"] == PRODUCTION
    write("dog/production-9/b.jpeg", picture("dog", 101))
    write("cat/production-9/a-again.jpeg", picture("cat", 100, side=150))
    second = splits(FOLDER, "production-9")
    assert (second[first.index] == first).all()
    assert (second.drop(first.index) == PRODUCTION).all()
    assert dropped() == {}
    summary = json.loads(PLACE.summary.read_text())
    assert summary["photos"][PRODUCTION] == {"cat": 2, "dog": 1}
    assert list(read_split(PLACE.manifest, PRODUCTION)["source"]) == [FOLDER, "production-9", "production-9"]
    assert set(read_split(PLACE.manifest, "train")["source"]) == {""}


@pytest.mark.parametrize(("split", "side"), [("train", 0), ("validation", 150)])
def test_what_is_near_production_is_not_trained_on(prepared: pd.Series, split: str, side: int):
    """Whether it was there before or comes later, and however often it is prepared."""
    number = of_split(prepared, "dog", split)
    write(f"dog/{FOLDER}/a.jpeg", picture("dog", number, side))
    write(f"dog/{TRAINED}/new.jpeg", picture("dog", number, 170))
    for _ in range(2):
        after = splits(FOLDER)
        reason = "near-duplicate of a production photo"
        assert dropped() == dict.fromkeys((f"dog/{number}.jpg", f"dog/{TRAINED}/new.jpeg"), reason)
        assert after[f"dog/{FOLDER}/a.jpeg"] == PRODUCTION
        assert after.drop(f"dog/{FOLDER}/a.jpeg").equals(prepared.drop(f"dog/{number}.jpg"))
    assert catalogue.of_last_batch(PLACE) == (
        "of the photos that were added last: production 1, dropped 1 (near-duplicate of a production photo)"
    )


@pytest.mark.parametrize("label", ["cat", "dog"])
def test_the_test_split_does_not_change(prepared: pd.Series, label: str):
    """Not even if a person calls its photo something else: the photo of production leaves."""
    number = of_split(prepared, "dog", "test")
    write(f"{label}/{FOLDER}/a.jpeg", picture("dog", number, 150))
    for _ in range(2):
        assert splits(FOLDER).equals(prepared)
        assert dropped() == {f"{label}/{FOLDER}/a.jpeg": "near-duplicate of a test photo"}


@pytest.mark.parametrize("label", ["cat", "dog"])
def test_what_a_service_collected_cannot_change_the_test_split(prepared: pd.Series, label: str):
    """A caller who sends photos of it with a wrong label would else have both dropped."""
    number = of_split(prepared, "dog", "test")
    write(f"dog/{FOLDER}/a.jpeg", picture("dog", 100))
    write(f"{label}/{TRAINED}/lie.jpeg", picture("dog", number, 150))
    for _ in range(2):
        assert splits(FOLDER).drop(f"dog/{FOLDER}/a.jpeg").equals(prepared)
        assert dropped() == {f"{label}/{TRAINED}/lie.jpeg": "near-duplicate of a test photo"}


def test_what_a_service_collected_is_never_in_test(prepared: pd.Series):
    """Nor on a machine that has no earlier manifest; a share of it is validated on."""
    write(f"dog/{FOLDER}/a.jpeg", picture("dog", 100))
    for number in range(40):
        write(f"cat/{TRAINED}/{number}.jpeg", picture("cat", 200 + number))
    for _ in range(2):
        after = splits(FOLDER)
        new = after[after.index.str.startswith(f"cat/{TRAINED}/")]
        assert len(new) == 40
        assert set(new) == {"train", "validation"}
        assert after[prepared.index].equals(prepared)
        shutil.rmtree(PLACE.prepared)


def test_a_near_duplicate_of_what_comes_into_test_is_dropped_at_once(prepared: pd.Series):
    """Without an earlier manifest it would join its group there, and leave at the next addition."""
    number = of_split(prepared, "dog", "test")
    write(f"dog/{FOLDER}/a.jpeg", picture("dog", 100))
    write(f"dog/{TRAINED}/near.jpeg", picture("dog", number, 150))
    shutil.rmtree(PLACE.prepared)
    for _ in range(2):
        assert splits(FOLDER).drop(f"dog/{FOLDER}/a.jpeg").equals(prepared)
        assert dropped() == {f"dog/{TRAINED}/near.jpeg": "near-duplicate of a test photo"}


def test_a_photo_of_production_with_another_label_is_not_trained_on(prepared: pd.Series):
    """The person's label is that of the test set; what is in train carries the label that was found."""
    number = of_split(prepared, "dog", "train")
    write(f"cat/{FOLDER}/a.jpeg", picture("dog", number))
    after = splits(FOLDER)
    assert after[f"cat/{FOLDER}/a.jpeg"] == PRODUCTION
    assert dropped() == {f"dog/{number}.jpg": "near-duplicate of a production photo"}


@pytest.mark.usefixtures("prepared")
def test_production_that_contradicts_itself_is_dropped():
    """As any two near-duplicates with different labels."""
    write(f"cat/{FOLDER}/a.jpeg", picture("dog", 100))
    write(f"dog/{FOLDER}/a.jpeg", picture("dog", 100, 150))
    assert PRODUCTION not in set(splits(FOLDER))
    assert set(dropped().values()) == {"conflicting duplicate"}


@pytest.mark.usefixtures("prepared")
def test_the_labels_of_production_stay_as_people_gave_them():
    """Reviewed labels of the data do not apply, and no other split of training changes."""
    before = read_manifest(PLACE)
    write(f"cat/{FOLDER}/a.jpeg", picture("cat", 100))
    splits(FOLDER)
    sha256 = read_split(PLACE.manifest, PRODUCTION)["sha256"].item()
    Path("configs").unlink()
    PLACE.reviewed.parent.mkdir()
    PLACE.reviewed.write_text(f"sha256,label,note\n{sha256},dog,\n")
    after = read_manifest(PLACE)
    production = Split([PLACE.raw / f"cat/{FOLDER}/a.jpeg"], [after.labels.index("cat")])
    assert after.splits == before.splits | {PRODUCTION: production}


@pytest.mark.usefixtures("prepared")
def test_without_production_the_next_step_is_named(tmp_path: Path):
    """In place of a split, and of a day."""
    with pytest.raises(ManifestError, match="No reviewed random sample has been added yet: make data ADD="):
        read_split(PLACE.manifest, PRODUCTION)
    assert since(PLACE.fetch_report) is None
    assert since(tmp_path / "none.json") is None
