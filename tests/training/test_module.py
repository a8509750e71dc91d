"""Order and augmentation depend only on seed, epoch and photo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import PipelineError
from common.manifest import ManifestError
from tests.pictures import scene
from tests.tiny import SIDE, UNCHANGED, train_config
from training.photos.augment import augmentation
from training.photos.manifest import Manifest, Split, every_nth_for_training, read_manifest
from training.photos.module import AugmentedDataset, PhotoData
from training.photos.sampler import EpochSlices
from training.place import Place

TARGETS = [number % 2 for number in range(10)]


@pytest.fixture
def images() -> np.ndarray:
    """Ten pictures, `u8[10,3,S,S]`."""
    return np.stack([np.asarray(scene(SIDE, SIDE).rotate(n)).transpose(2, 0, 1) for n in range(10)])


def test_a_pass_shows_each_photo_once():
    """The slices of a pass are disjoint and cover it; the next pass has another order."""
    sampler = EpochSlices(96, 3, 8, seed=1)
    passes = []
    for start in (0, 3):
        seen = []
        for epoch in range(start, start + 3):
            sampler.set_epoch(epoch)
            keys = list(sampler)
            assert len(keys) == len(sampler) == 32
            assert {key[0] for key in keys} == {epoch}
            seen += [key[1] for key in keys]
        assert sorted(seen) == list(range(96))
        passes.append(seen)
    assert passes[0] != passes[1]


@pytest.mark.parametrize("n", [20, 32, 41, 63])
def test_fewer_photos_than_the_epochs_need_fill_each_of_them(n: int):
    """Every epoch has a whole batch, as the learning rate's cycle expects, and a pass shows every photo."""
    sampler = EpochSlices(n, 2, 32, seed=1)
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == len(sampler) == min(n, 32)
        seen += [index for _, index in keys]
    assert set(seen) == set(range(n))


def test_augmentation_is_a_function_of_seed_epoch_and_photo(images: np.ndarray):
    """Whatever was drawn before, and without touching the global generator."""
    augment = [augmentation(train_config().augment, size) for size in (SIDE, SIDE // 2)]
    dataset = AugmentedDataset(images, TARGETS, augment, 2, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = dataset[(0, 3)][0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    dataset[(1, 1)]
    assert torch.equal(dataset[(0, 3)][0], first)
    assert not torch.equal(dataset[(1, 3)][0], first)
    assert not torch.equal(AugmentedDataset(images, TARGETS, augment, 2, seed=2)[(0, 3)][0], first)
    assert (first.shape, first.dtype) == ((3, SIDE, SIDE), torch.uint8)
    assert dataset[(2, 3)][0].shape == (3, SIDE // 2, SIDE // 2), "the second pass has its own size"


def _plain_and_changed(images: np.ndarray, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture without any change and with one change, both as `f32[3,S,S]`."""
    off = train_config(*UNCHANGED).augment
    picture = torch.from_numpy(images[3])
    torch.manual_seed(3)
    plain = augmentation(off, SIDE)(picture)
    torch.manual_seed(3)
    changed = augmentation(replace(off, **{kind: 1.0}), SIDE)(picture)
    assert (changed.shape, changed.dtype) == ((3, SIDE, SIDE), torch.uint8)
    return plain.float(), changed.float()


@pytest.mark.parametrize("kind", ["grey", "blur", "thumbnail", "noise", "jpeg"])
def test_each_change_of_quality_works_alone(images: np.ndarray, kind: str):
    """At probability 1 the pixels change, and the mean brightness stays about the same."""
    plain, changed = _plain_and_changed(images, kind)
    assert (changed - plain).abs().max() > 0
    assert (changed.mean() - plain.mean()).abs() < 10


def test_bad_light_leaves_little_contrast(images: np.ndarray):
    """Less than before, but not none."""
    plain, changed = _plain_and_changed(images, "light")
    assert 0 < changed.std() < plain.std()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_worker_processes_change_nothing(images: np.ndarray, workers: str):
    """The same batches from this process and from two workers."""
    config = train_config("--loader.workers", workers, "--loader.batch_size", "4")
    split = Split([], TARGETS)
    manifest = Manifest(["a", "b"], {"train": split, "validation": split}, "")
    photos = {"train": images, "validation": images}
    batches = list(PhotoData(manifest, photos, config).train_dataloader())
    alone = list(PhotoData(manifest, photos, train_config("--loader.batch_size", "4")).train_dataloader())
    for (batch, targets), (expected, wanted) in zip(batches, alone, strict=True):
        assert torch.equal(batch, expected)
        assert torch.equal(targets, wanted)


def test_processes_share_the_validation_photos_or_are_refused(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """Each photo is predicted once; a process without any would wait for the others for ever."""
    split = Split([], TARGETS)
    photos = {"train": images, "validation": images}
    data = PhotoData(Manifest(["a", "b"], {"train": split, "validation": split}, ""), photos, train_config())
    seen = []
    for rank in range(2):
        monkeypatch.setattr(data, "_rank_and_world", lambda rank=rank: (rank, 2))
        (share,) = data.val_dataloader()
        seen += share.chosen
    assert sorted(seen) == [*range(len(TARGETS))]
    monkeypatch.setattr(data, "_rank_and_world", lambda: (0, len(TARGETS) + 1))
    with pytest.raises(PipelineError, match=r"cannot share .* validation photos\. Use fewer"):
        data.val_dataloader()


def test_without_a_manifest_the_next_step_is_named(tmp_path: Path):
    """Before anything is loaded."""
    with pytest.raises(ManifestError, match="make data"):
        read_manifest(Place(tmp_path))


def test_classes_are_text_whatever_they_are_called(tmp_path: Path):
    """A folder called 001 or nan is a class of that name."""
    place = Place(tmp_path)
    place.prepared.mkdir(parents=True)
    rows = [
        f"{label}/1.jpg,{label},{split},0,0,0,1,1,1"
        for label in ("001", "nan")
        for split in ("train", "test")
    ]
    place.manifest.write_text("\n".join(["path,label,split,sha256,phash,group,width,height,bytes", *rows]))
    manifest = read_manifest(place)
    assert manifest.labels == ["001", "nan"]
    assert manifest.splits["test"].targets == [0, 1]


def test_a_share_of_the_training_photos_is_a_manifest_of_its_own():
    """Validation and test stay complete; a class that would vanish is reported."""
    split = Split([Path(str(number)) for number in range(10)], TARGETS)
    whole = Manifest(["a", "b"], {"train": split, "test": split}, "m1")
    part = every_nth_for_training(whole, 3)
    assert part.splits["train"].paths == [Path("0"), Path("3"), Path("6"), Path("9")]
    assert part.splits["test"] == split
    assert part.sha256 != whole.sha256
    with pytest.raises(PipelineError, match="smaller --share"):
        every_nth_for_training(whole, 2)
