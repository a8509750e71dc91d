"""Photos are decoded once, exactly as in the service, and a split is complete or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from common.errors import PipelineError
from serving.contract.preprocess import preprocess
from tests.pictures import encode, scene
from training.photos import decoded
from training.photos.decoded import DecodedPhotos
from training.photos.manifest import Manifest, Split

SIZE = 32


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
    photos = DecodedPhotos(manifest, SIZE, cache)
    assert list(photos) == ["train", "validation"]
    for split, images in photos.items():
        expected = [preprocess(p.read_bytes(), SIZE).pixels for p in manifest.splits[split].paths]
        assert np.array_equal(images, np.stack(expected))
    for path in manifest.splits["train"].paths:
        path.unlink()
    assert DecodedPhotos(manifest, SIZE, cache)["train"].shape == (20, 3, SIZE, SIZE)


def test_an_interrupted_build_resumes_where_it_stopped(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """Photos of finished chunks are not decoded again, and the result equals an uninterrupted build."""
    monkeypatch.setattr(decoded, "_CHUNK", 4)
    whole = np.array(DecodedPhotos(manifest, SIZE, cache)["train"])
    (final,) = cache.glob("*/train.npy")
    final.unlink()
    seen: list[Path] = []

    def counted(self: DecodedPhotos, path: Path) -> np.ndarray:
        seen.append(path)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return preprocess(path.read_bytes(), self.size).pixels

    monkeypatch.setattr(DecodedPhotos, "_pixels", counted)
    with pytest.raises(KeyboardInterrupt):
        DecodedPhotos(manifest, SIZE, cache)["train"]
    assert not list(cache.glob("*/train.npy"))
    before = set(seen[:8])
    seen.clear()
    seen.extend([Path("counted on")] * 10)
    assert np.array_equal(DecodedPhotos(manifest, SIZE, cache)["train"], whole)
    assert not before & set(seen)
    assert sorted(p.name for p in next(cache.iterdir()).iterdir()) == ["train.npy"]


def test_another_manifest_or_size_has_its_own_cache(manifest: Manifest, cache: Path):
    """Only the newest is kept: a cache is as large as the decoded photos."""
    DecodedPhotos(manifest, SIZE, cache)["validation"]
    larger = DecodedPhotos(manifest, SIZE * 2, cache)["validation"]
    assert larger.shape == (5, 3, SIZE * 2, SIZE * 2)
    assert len(list(cache.iterdir())) == 1
    DecodedPhotos(Manifest(manifest.labels, manifest.splits, "m2"), SIZE * 2, cache)
    assert not list(cache.glob("*/validation.npy"))


def test_a_full_disk_is_told_before_anything_is_decoded(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """A write to a mapped file on a full disk would end the process without a word."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded.os, "posix_fallocate", full)
        with pytest.raises(PipelineError, match=r"need 0\.0 GB.*Free some space"):
            DecodedPhotos(manifest, SIZE, cache)["train"]
    assert not list(cache.rglob("*.npy"))
    assert len(DecodedPhotos(manifest, SIZE, cache)["train"]) == 20
