"""Every file is kept with its split or dropped with its reason, and photos never change split."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits

from common.errors import PipelineError
from tests.pictures import encode
from tests.tiny import ROOT, data_config
from training.__main__ import main
from training.config import PrepareConfig
from training.photos import catalogue
from training.photos.drawn import draw
from training.photos.near_duplicates import group_near_duplicates, without_bridges
from training.photos.split import SMALL_CLASS, SPLITS, assign_splits
from training.place import Place

CONFIG = data_config().prepare
PLACE = Place()
"""The current folder, which is empty in each test."""


def prepare(config: PrepareConfig) -> dict[str, object]:
    """Prepare, like the command."""
    return catalogue.prepare(config, PLACE)


def picture(label: str, number: int) -> Image.Image:
    """A drawn animal, unlike any other."""
    return draw(label, np.random.default_rng((5, ord(label[0]), number)))


def write(name: str, data: bytes) -> None:
    """Write a raw file."""
    path = PLACE.raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def raw(workplace: Path) -> Path:
    """Twenty drawn cats and twenty dogs in data/raw."""
    for label in ("cat", "dog"):
        for number in range(20):
            write(f"{label}/{number}.jpg", encode(picture(label, number), quality=90))
    return workplace / PLACE.raw


def manifest() -> pd.DataFrame:
    """The manifest that prepare wrote."""
    return pd.read_csv(PLACE.manifest).set_index("path")


def dropped() -> dict[str, str]:
    """Reason by path."""
    table = pd.read_csv(PLACE.dropped)
    return dict(zip(table["path"], table["reason"], strict=True))


@pytest.mark.usefixtures("raw")
def test_every_file_is_accounted_for():
    """Kept and dropped files add up to all; each fault has its reason."""
    write("cat/empty.jpg", b"")
    write("cat/IMG_1.HEIC", b"\0\0\0\x18ftypheic" + bytes(99))
    write("cat/Thumbs.db", b"\xd0\xcf\x11\xe0 not a photo")
    write("dog/cut.jpg", encode(picture("dog", 99))[:2000])
    write("dog/huge.png", encode(Image.new("L", (17000, 10)), "PNG"))
    summary = prepare(CONFIG)
    assert dropped() == {
        "cat/IMG_1.HEIC": "HEIC photo, not supported",
        "cat/Thumbs.db": "not an image",
        "cat/empty.jpg": "empty",
        "dog/cut.jpg": "undecodable",
        "dog/huge.png": "too large",
    }
    table = manifest()
    assert list(table.columns) == ["label", "split", "sha256", "phash", "group", "width", "height", "bytes"]
    assert (summary["files"], summary["kept"], summary["dropped"]) == (45, 40, 5)
    assert summary["photos"] == {
        "train": {"cat": 16, "dog": 16},
        "validation": {"cat": 2, "dog": 2},
        "test": {"cat": 2, "dog": 2},
    }
    assert json.loads(PLACE.summary.read_text())["dropped_by_reason"]["empty"] == 1


@pytest.mark.usefixtures("raw")
def test_near_duplicates_share_group_and_split():
    """The same photo, smaller or brighter and in another format, is one group."""
    for number in range(8):
        original = picture("cat", number)
        write(f"cat/{number}-small.jpg", encode(original.resize((150, 150)), quality=70))
        write(f"cat/{number}-bright.png", encode(ImageEnhance.Brightness(original).enhance(1.1), "PNG"))
    summary = prepare(CONFIG)
    table = manifest()
    for number in range(8):
        rows = table.loc[[f"cat/{number}.jpg", f"cat/{number}-small.jpg", f"cat/{number}-bright.png"]]
        assert rows["group"].nunique() == rows["split"].nunique() == 1
    assert summary["near_duplicate_groups"] == 8
    assert table["group"].nunique() == 40


@pytest.mark.usefixtures("raw")
def test_near_duplicates_under_two_labels_are_all_dropped():
    """One of the labels is wrong, and nobody knows which."""
    write("dog/copy.jpg", encode(picture("cat", 3).resize((160, 160)), quality=80))
    prepare(CONFIG)
    assert dropped() == {"cat/3.jpg": "conflicting duplicate", "dog/copy.jpg": "conflicting duplicate"}


@pytest.mark.usefixtures("workplace")
def test_plain_pictures_whose_hashes_agree_are_not_conflicting():
    """Digits are alike to a perceptual hash; their pixels differ, so none is dropped."""
    digits = load_digits()
    for number, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((pixels * 15).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        write(f"{target}/{number}.png", encode(image, "PNG"))
    assert prepare(CONFIG)["dropped"] == 0


@pytest.mark.usefixtures("raw")
def test_each_group_lies_in_one_split_when_more_photos_count_as_near():
    """The groups are joined by a new setting: test photos stay, and what is near to them is dropped."""
    prepare(CONFIG)
    before = manifest()["split"]
    summary = prepare(data_config("--prepare.near_duplicate_bits", "24").prepare)
    after = manifest()
    assert summary["dropped_by_reason"].keys() == {"near-duplicate in another split"}
    assert (after["split"] == before[after.index]).all()
    assert set(before[before == "test"].index) <= set(after.index)
    assert len(after[["group", "split"]].drop_duplicates()) == after["group"].nunique()


def test_a_new_photo_between_two_splits_is_dropped():
    """It is near to a training and to a test photo, which are not near each other."""
    train, between, test, other = 0, 0b111111, 0b111111_111111, 0xFFFF << 40
    hashes = np.array([train, between, test, other], np.uint64)
    kept = pd.DataFrame({"path": list("abcd"), "label": "cat", "bytes": 1, "phash": hashes})
    kept["group"] = group_near_duplicates(hashes, 6)
    assert kept["group"].nunique() == 2
    left, dropped = without_bridges(kept, pd.Series(["train", np.nan, "test", np.nan]), 6)
    assert dropped[["path", "reason"]].to_numpy().tolist() == [["b", "near-duplicate across splits"]]
    assert left["group"].nunique() == len(left) == 3


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sizes", [[40] * 102, [2000, 2000, 20], [12, 200, 57]])
def test_every_class_has_photos_in_each_split(sizes: list[int], seed: int):
    """Small classes are divided exactly, however many photos the others have."""
    labels = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    chance = random.Random(seed)
    names = [f"{chance.getrandbits(64):016x}" for _ in labels]
    kept = pd.DataFrame({"label": labels, "group": names})
    split = assign_splits(kept, CONFIG, pd.Series(index=kept.index, dtype=object))
    table = pd.crosstab(kept["label"], split)
    assert (table[list(SPLITS)] > 0).all().all()
    small = table[table.sum(axis=1) < SMALL_CLASS]
    assert (abs(small["test"] - small.sum(axis=1) / 10) <= 1).all()


@pytest.mark.usefixtures("raw")
def test_the_owner_s_test_split_stays_whole_and_near_copies_of_it_leave():
    """No other photo joins it, and none near to it trains."""
    for label in ("cat", "dog"):
        for number in range(100, 104):
            write(f"{label}/test/{number}.jpg", encode(picture(label, number), quality=90))
    write("cat/train/copy.jpg", encode(picture("cat", 100).resize((150, 150))))
    PLACE.fetch_report.write_text('{"kept_test": ["test"]}')
    assert prepare(CONFIG)["kept_test"] == ["test"]
    table = manifest()
    assert set(table.index[table["split"] == "test"]) == {
        f"{label}/test/{number}.jpg" for label in ("cat", "dog") for number in range(100, 104)
    }
    assert dropped() == {"cat/train/copy.jpg": "near-duplicate in another split"}
    assert (table["split"] == "validation").sum() == 4


@pytest.mark.usefixtures("raw")
def test_new_photos_never_move_earlier_ones():
    """Even in a small set, which is divided exactly; a new near-duplicate follows its earlier photo."""
    prepare(CONFIG)
    before = manifest()["split"]
    for number in range(20, 50):
        write(f"cat/{number}.jpg", encode(picture("cat", number)))
    write("dog/5-small.jpg", encode(picture("dog", 5).resize((140, 140))))
    prepare(CONFIG)
    after = manifest()["split"]
    assert (after[before.index] == before).all()
    assert after["dog/5-small.jpg"] == after["dog/5.jpg"]
    cats = after[after.index.str.startswith("cat")].value_counts()
    assert cats.to_dict() == {"train": 40, "validation": 5, "test": 5}


@pytest.mark.usefixtures("raw")
def test_the_split_is_reproducible_and_the_salt_changes_it():
    """Two runs from scratch give the same bytes."""
    prepare(CONFIG)
    first = PLACE.manifest.read_bytes()
    for path in PLACE.prepared.iterdir():
        path.unlink()
    prepare(CONFIG)
    assert PLACE.manifest.read_bytes() == first
    prepare(data_config("--prepare.salt", "other").prepare)
    assert PLACE.manifest.read_bytes() != first


@given(st.integers(0, 2**32), st.integers(2000, 6000))
def test_a_large_set_is_split_by_hash(seed: int, n: int):
    """Within four standard deviations of 80/10/10, and independent of the other photos."""
    chance = random.Random(seed)
    names = [f"{chance.getrandbits(64):016x}" for _ in range(n)]
    kept = pd.DataFrame({"label": [("cat", "dog")[i % 2] for i in range(n)], "group": names, "sha256": names})
    split = assign_splits(kept, CONFIG, pd.Series(index=kept.index, dtype=object))
    for name, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        assert abs((split == name).mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    half = kept.iloc[: max(2000, n // 2)]
    assert (assign_splits(half, CONFIG, pd.Series(index=half.index, dtype=object)) == split[half.index]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: [p.write_bytes(b"") for p in PLACE.raw.glob("dog/*")], "'dog' has no usable photo"),
        (lambda: [p.unlink() for p in list(PLACE.raw.glob("dog/*"))[2:]], "too few"),
        (lambda: [p.unlink() for p in PLACE.raw.rglob("*.jpg")], "holds no files"),
    ],
)
@pytest.mark.usefixtures("raw")
def test_photos_that_cannot_train_are_reported(
    change: Callable[[], object], words: str, capsys: pytest.CaptureFixture[str]
):
    """With class and count; the earlier manifest stays."""
    prepare(CONFIG)
    before = PLACE.manifest.read_bytes()
    change()
    assert main(["prepare", "--prepare.salt", "x"]) == 2
    assert words in capsys.readouterr().err
    assert PLACE.manifest.read_bytes() == before


@pytest.mark.usefixtures("workplace")
def test_without_photos_the_next_step_is_named():
    """The error says what to run first."""
    with pytest.raises(PipelineError, match="make data"):
        prepare(CONFIG)


def test_shares_that_leave_nothing_are_refused():
    """Before a photo is read."""
    with pytest.raises(PipelineError, match="nothing to train on"):
        prepare(PrepareConfig("x", 0.5, 0.5, 6))


@pytest.mark.usefixtures("raw")
def test_a_full_disk_leaves_the_earlier_manifest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Simulated where the second table is written: exit 2 with the cause, and nothing half-written."""
    prepare(CONFIG)
    before = sorted((p.name, p.read_bytes()) for p in PLACE.prepared.iterdir())
    write_csv = pd.DataFrame.to_csv

    def full(self: pd.DataFrame, path: Path, **options: object) -> None:
        if path.name == "dropped.csv":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_csv(self, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert main(["prepare", "--prepare.salt", "x"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted((p.name, p.read_bytes()) for p in PLACE.prepared.iterdir()) == before
    assert sorted(p.name for p in Path("data").iterdir()) == ["prepared", "raw"]


def wait_for_a_busy_worker(pid: int) -> None:
    """Wait until a worker has computed for longer than it takes to start."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):  # one of them may have ended
            if any(w.cpu_times().user > 1 for w in psutil.Process(pid).children(recursive=True)):
                return
        time.sleep(0.01)
    pytest.fail("no worker computes")


@pytest.mark.parametrize("moment", ["workers start", "photos are decoded"])
def test_ctrl_c_ends_the_workers_and_leaves_nothing_half_written(
    raw: Path, environment: Callable[..., dict[str, str]], moment: str
):
    """A real SIGINT to the process group while photos are decoded: exit 130, no traceback, no manifest."""
    template = (raw / "cat/0.jpg").read_bytes()
    for number in range(4000):
        write(f"cat/more-{number}.jpg", template)
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "prepare"],
        env=environment(PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr
    assert process.stderr.read(1), "the progress bar is there"
    if moment == "photos are decoded":
        wait_for_a_busy_worker(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not PLACE.prepared.exists()
    assert sorted(p.name for p in Path("data").iterdir()) == ["raw"]


def test_split_names_are_what_the_code_reads():
    """The names are the same everywhere."""
    assert SPLITS == ("train", "validation", "test")
