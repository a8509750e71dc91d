"""Manifest in, decoded photos out: each split as one memory-mapped `u8[N,3,S,S]`, decoded once.

Every pass over the photos, of the head's features, the fine-tuning and the predictions, then reads
pixels and decodes nothing. The files are in a cache, in a folder named by what they depend on: the
manifest, the size, the resize rule and the decoder. A build that was cut resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL

from common import files
from common.cores import pool_of_cores
from common.progress import progress
from serving.contract.preprocess import RESIZE_RULE, preprocess
from training.photos.manifest import Manifest

Images = npt.NDArray[np.uint8]
_CHUNK = 512  # photos that a cut build decodes again at most


class DecodedPhotos(Mapping[str, Images]):
    """The photos of a manifest, as the service sees them at one size."""

    def __init__(self, manifest: Manifest, size: int, cache: Path) -> None:
        """Make room in the folder `cache`; what it has of other manifests or sizes is deleted."""
        self.manifest, self.size = manifest, size
        parts = (manifest.sha256, size, RESIZE_RULE, PIL.__version__)
        self._folder = cache / hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
        for other in cache.glob("*"):
            if other != self._folder:
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, split: str) -> Images:
        """`u8[N,3,S,S]` of one split, in the manifest's order; decoded now if it is not yet."""
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
