"""Manifest in, decoded photos out: each split as one memory-mapped `u8[N,3,S,S]`, decoded once.

Every later pass over the photos (head features, fine-tuning, predictions) reads pixels and decodes
nothing. The cache folder is named by a hash of what the pixels depend on: manifest, size, resize rule
and decoder. An interrupted build resumes where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL

from common import files
from common.cores import pool_of_cores
from common.errors import PipelineError
from common.progress import progress
from serving.contract.preprocess import RESIZE_RULE, preprocess
from training.photos.manifest import Manifest

Images = npt.NDArray[np.uint8]
_CHUNK = 512  # most photos that an interrupted build decodes again


class DecodedPhotos(Mapping[str, Images]):
    """The photos of a manifest, as the service sees them at one size."""

    def __init__(self, manifest: Manifest, size: int, cache: Path) -> None:
        """Open the folder `cache`, and delete what it holds of other manifests or sizes."""
        self.manifest, self.size = manifest, size
        parts = (manifest.sha256, size, RESIZE_RULE, PIL.__version__)
        self._folder = cache / hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
        for other in cache.glob("*"):
            if other != self._folder:
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, split: str) -> Images:
        """`u8[N,3,S,S]` of one split, in the manifest's order; decoded on first use."""
        final = self._folder / f"{split}.npy"
        if not final.exists():
            self._decode(split)
        images: Images = np.load(final, mmap_mode="r")
        return images

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.splits)

    def __len__(self) -> int:
        return len(self.manifest.splits)

    def _decode(self, split: str) -> None:
        photos = self.manifest.splits[split].paths
        partial, note = self._folder / f"{split}.partial.npy", self._folder / f"{split}.done"
        done = int(note.read_text()) if note.exists() and partial.exists() else 0
        shape = (len(photos), 3, self.size, self.size)
        images = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.uint8, shape)
        _reserve(partial)
        with (
            pool_of_cores() as pool,
            progress(f"decode {split}", len(photos), "photos", initial=done) as bar,
        ):
            for start in range(done, len(photos), _CHUNK):
                chunk = photos[start : start + _CHUNK]
                for row, pixels in enumerate(pool.map(self._pixels, chunk), start):
                    images[row] = pixels
                    bar.update()
                images.flush()
                with files.atomic_file(note) as fresh:
                    fresh.write_text(str(start + len(chunk)))
        partial.rename(self._folder / f"{split}.npy")
        note.unlink(missing_ok=True)

    def _pixels(self, path: Path) -> Images:
        return preprocess(path.read_bytes(), self.size).pixels


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
            "some space, or lower model.input_size."
        ) from error
