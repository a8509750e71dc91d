"""Manifest in, decoded photos out: each split as one memory-mapped `u8[N,3,S,S]`, decoded once.

Every later pass over the photos (head features, fine-tuning, predictions) reads pixels and decodes
nothing. The cache folder is named by a hash of what the pixels depend on: manifest, size, resize rule
and decoder. An interrupted build resumes where it stopped. A split that does not fit the cache's limit has
the same pixels, each photo decoded whenever it is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import PIL

from common import files
from common.cores import pool_of_cores
from common.errors import PipelineError
from common.progress import progress
from serving.contract.errors import ImageError
from serving.contract.preprocess import RESIZE_RULE, preprocess
from training.photos.manifest import Manifest

Images = npt.NDArray[np.uint8]
_CHUNK = 512  # most photos that an interrupted build decodes again


class Photos(Protocol):
    """The photos of one split, `u8[N,3,S,S]`, by index: a mapped file or `PhotoFiles`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, 3, S, S)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Images:
        """`u8[3,S,S]` of one photo."""


class PhotoError(PipelineError):
    """A photo of the manifest cannot be read any more."""

    def __str__(self) -> str:
        """One line: torch puts a traceback before the text of an error in a loader's process."""
        return super().__str__().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: ")


class PhotoFiles:
    """Photos that are decoded whenever they are read, as the service does."""

    def __init__(self, paths: list[Path], size: int) -> None:
        """`size` is the side of the square, in pixels."""
        self._paths, self._size = paths, size

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, 3, S, S)`."""
        return len(self), 3, self._size, self._size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int, /) -> Images:
        """`u8[3,S,S]` of one photo.

        Raises:
            PhotoError: its file is missing or damaged.
        """
        path = self._paths[index]
        try:
            return preprocess(path.read_bytes(), self._size).pixels
        except (OSError, ImageError) as error:
            cause = str(error.strerror if isinstance(error, OSError) else error).rstrip(".")
            raise PhotoError(
                f"{path} cannot be read any more: {cause}. Prepare the photos again: make data."
            ) from error


class DecodedPhotos(Mapping[str, Photos]):
    """The photos of a manifest, as the service sees them at one size."""

    def __init__(self, manifest: Manifest, size: int, cache: Path, limit_gb: float) -> None:
        """Open the folder `cache`, and delete what it holds of other manifests or sizes.

        Args:
            manifest: The photos.
            size: Side of the square, in pixels.
            cache: Folder of the decoded photos.
            limit_gb: Most decoded photos to keep there (`caches`), in GB.
        """
        self.manifest, self.size = manifest, size
        self._limit_bytes = limit_gb * 1e9
        parts = (manifest.sha256, size, RESIZE_RULE, PIL.__version__)
        self._folder = cache / hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
        for other in cache.glob("*"):
            if other != self._folder:
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, split: str) -> Photos:
        """`u8[N,3,S,S]` of one split, in the manifest's order; decoded on first use or at every access."""
        if not self.caches(split):
            return self._files(split)
        final = self._final(split)
        if not final.exists():
            self._decode(split)
        images: Images = np.load(final, mmap_mode="r")
        return images

    def caches(self, split: str) -> bool:
        """Whether a split is decoded once: it is there already, or fits the limit together with validation.

        Every pass reads all of validation, so that comes first. No training reads test.
        """
        counted = {split, "validation"}
        photos = sum(len(self.manifest.splits[name].paths) for name in counted)
        return self._final(split).exists() or photos * 3 * self.size**2 <= self._limit_bytes

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.splits)

    def __len__(self) -> int:
        return len(self.manifest.splits)

    def _final(self, split: str) -> Path:
        return self._folder / f"{split}.npy"

    def _files(self, split: str) -> PhotoFiles:
        return PhotoFiles(self.manifest.splits[split].paths, self.size)

    def _decode(self, split: str) -> None:
        photos = self._files(split)
        partial, note = self._folder / f"{split}.partial.npy", self._folder / f"{split}.done"
        done = int(note.read_text()) if note.exists() and partial.exists() else 0
        images = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.uint8, photos.shape)
        _reserve(partial)
        with (
            pool_of_cores() as pool,
            progress(f"decode {split}", len(photos), "photos", initial=done) as bar,
        ):
            for start in range(done, len(photos), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(photos)))
                for row, pixels in zip(chunk, pool.map(photos.__getitem__, chunk), strict=True):
                    images[row] = pixels
                    bar.update()
                images.flush()
                with files.atomic_file(note) as fresh:
                    fresh.write_text(str(chunk.stop))
        partial.rename(self._final(split))
        note.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Take the space of a mapped file now: a full disk would otherwise end the process in a later write.

    Raises:
        PipelineError: the disk has not enough space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        path.unlink()
        raise PipelineError(
            f"The decoded photos need {size / 1e9:.1f} GB, and the disk of {path.parent} has less. Free "
            "some space, or lower loader.cache_limit: photos beyond it are decoded whenever they are read."
        ) from error
