"""Photos are decoded once, exactly as in the service, and a split is complete or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from common.errors import PipelineError
from serving.contract.preprocess import preprocess
from tests.pictures import encode, scene
from training.photos import decoded
from training.photos.decoded import DecodedPhotos, PhotoError, PhotoFiles
from training.photos.manifest import Manifest, Split

SIZE = 32
LIMIT_GB = 1.0
"""More than all photos of these tests need."""


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Twenty photos to train on and five to validate."""
    files = [tmp_path / f"{number}.jpg" for number in range(25)]
    for number, file in enumerate(files):
        file.write_bytes(encode(scene(100 + number, 80)))
    return Manifest(
        ["a", "b"], {"train": Split(files[:20], [0] * 20), "validation": Split(files[20:], [1] * 5)}, "m1"
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where decoded photos are kept."""
    return tmp_path / "cache"


def test_the_cache_holds_the_services_pixels(manifest: Manifest, cache: Path):
    """In the manifest's order; a second access reads the file."""
    photos = DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)
    assert list(photos) == ["train", "validation"]
    for split, images in photos.items():
        expected = [preprocess(p.read_bytes(), SIZE).pixels for p in manifest.splits[split].paths]
        assert np.array_equal(images, np.stack(expected))
    for path in manifest.splits["train"].paths:
        path.unlink()
    assert DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"].shape == (20, 3, SIZE, SIZE)


def test_an_interrupted_build_resumes_where_it_stopped(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """Photos of finished chunks are not decoded again, and the result equals an uninterrupted build."""
    monkeypatch.setattr(decoded, "_CHUNK", 4)
    whole = np.array(DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"])
    (final,) = cache.glob("*/train.npy")
    final.unlink()
    seen: list[int] = []
    read = PhotoFiles.__getitem__

    def counted(self: PhotoFiles, index: int) -> np.ndarray:
        seen.append(index)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(PhotoFiles, "__getitem__", counted)
    with pytest.raises(KeyboardInterrupt):
        DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"]
    assert not list(cache.glob("*/train.npy"))
    before = set(seen[:8])
    seen.clear()
    seen.extend([-1] * 10)  # no further interrupt
    assert np.array_equal(DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"], whole)
    assert not before & set(seen)
    assert sorted(p.name for p in next(cache.iterdir()).iterdir()) == ["train.npy"]


def test_another_manifest_or_size_has_its_own_cache(manifest: Manifest, cache: Path):
    """Only the newest is kept: a cache is as large as the decoded photos."""
    DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["validation"]
    larger = DecodedPhotos(manifest, SIZE * 2, cache, LIMIT_GB)["validation"]
    assert larger.shape == (5, 3, SIZE * 2, SIZE * 2)
    assert len(list(cache.iterdir())) == 1
    DecodedPhotos(Manifest(manifest.labels, manifest.splits, "m2"), SIZE * 2, cache, LIMIT_GB)
    assert not list(cache.glob("*/validation.npy"))


def test_a_full_disk_is_told_before_anything_is_decoded(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """A write to a mapped file on a full disk would end the process without a word."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded.os, "posix_fallocate", full)
        with pytest.raises(PipelineError, match=r"need 0\.0 GB.*Free some space.*loader\.cache_limit"):
            DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"]
    assert not list(cache.rglob("*.npy"))
    assert len(DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"]) == 20


@pytest.mark.parametrize(
    ("limit_gb", "kept"),
    [(0, []), (30e-6, ["validation"]), (70e-6, ["validation"]), (90e-6, ["train", "validation"])],
)
def test_photos_beyond_the_limit_are_decoded_when_read(
    manifest: Manifest, cache: Path, limit_gb: float, kept: list[str]
):
    """Validation (15 KB) comes before train (61 KB); pixels, shape and length are those of the cache."""
    photos = DecodedPhotos(manifest, SIZE, cache, limit_gb)
    for split, images in photos.items():
        expected = np.stack([preprocess(p.read_bytes(), SIZE).pixels for p in manifest.splits[split].paths])
        assert (len(images), images.shape) == (len(expected), expected.shape)
        assert np.array_equal(np.stack([images[index] for index in range(len(images))]), expected)
    assert sorted(path.stem for path in cache.glob("*/*")) == kept
    assert [split for split in ("train", "validation") if photos.caches(split)] == kept


def test_photos_that_are_decoded_already_are_used_whatever_the_limit(manifest: Manifest, cache: Path):
    """They cost no more space."""
    DecodedPhotos(manifest, SIZE, cache, LIMIT_GB)["train"]
    photos = DecodedPhotos(manifest, SIZE, cache, 0)
    for path in manifest.splits["train"].paths:
        path.unlink()
    assert photos["train"][0].shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (None, "No such file or directory"),
        (b"GIF89a", "The GIF image cannot be decoded: its structure is truncated or corrupt"),
    ],
)
def test_a_photo_that_cannot_be_read_any_more_is_named(
    manifest: Manifest, workers: int, damage: bytes | None, cause: str
):
    """In one line, from a loader's process too."""
    path = manifest.splits["train"].paths[1]
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    photos = PhotoFiles(manifest.splits["train"].paths, SIZE)
    with pytest.raises(PhotoError) as caught:
        list(DataLoader(photos, batch_size=4, num_workers=workers))
    assert str(caught.value) == (
        f"{path} cannot be read any more: {cause}. Prepare the photos again: make data."
    )
