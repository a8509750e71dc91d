"""Order and augmentation depend on seed, epoch and photo alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.pictures import encode, scene
from tests.tiny import SIDE, train_config
from training.data import (
    AugmentedDataset,
    EpochSlices,
    Manifest,
    PhotoData,
    Split,
    augmentation,
    read_manifest,
)
from training.errors import PipelineError


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Ten photos of two classes."""
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(encode(scene(100 + number, 80)))
    return Split([tmp_path / f"{number}.jpg" for number in range(10)], [n % 2 for n in range(10)])


def test_a_pass_shows_each_photo_once():
    """The slices of one pass are disjoint and together the whole; the next pass has another order."""
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


def test_augmentation_is_a_function_of_seed_epoch_and_photo(split: Split):
    """Whatever was drawn before, and without moving the global generator."""
    augment = augmentation(train_config().augment, SIDE)
    dataset = AugmentedDataset(split, SIDE, augment, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = dataset[(0, 3)][0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    dataset[(1, 1)]
    assert torch.equal(dataset[(0, 3)][0], first)
    assert not torch.equal(dataset[(1, 3)][0], first)
    assert not torch.equal(AugmentedDataset(split, SIDE, augment, seed=2)[(0, 3)][0], first)
    assert (first.shape, first.dtype) == ((3, SIDE, SIDE), torch.uint8)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_worker_processes_change_nothing(split: Split, workers: str):
    """The same batches from this process and from two others."""
    config = train_config("--loader.workers", workers, "--loader.batch_size", "4")
    manifest = Manifest(["a", "b"], {"train": split, "validation": split}, "")
    batches = list(PhotoData(manifest, config).train_dataloader())
    alone = list(PhotoData(manifest, train_config("--loader.batch_size", "4")).train_dataloader())
    for (images, targets), (expected, wanted) in zip(batches, alone, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(targets, wanted)


def test_without_a_manifest_the_next_step_is_named(tmp_path: Path):
    """Before anything is loaded."""
    with pytest.raises(PipelineError, match="make data"):
        read_manifest(tmp_path / "manifest.csv")
