"""Synthetic JPEGs for load, with the file size of photographs of the same dimensions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

SIZES: Final = {"224x224": (224, 224), "500x375": (500, 375), "4000x3000": (4000, 3000)}
_BYTES_PER_PIXEL: Final = 0.38  # a 500x375 photograph of 72 kB
_COUNT: Final = 8


def write_photos(folder: Path, name: str) -> list[Path]:
    """Write eight different JPEGs of one of `SIZES`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-{number}.jpg" for number in range(_COUNT)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(_photo(SIZES[name], number))
    return paths


def _photo(size: tuple[int, int], seed: int) -> bytes:
    """Noise over five octaves, so that fine and coarse detail cost a decoder what a photograph costs."""
    random = np.random.default_rng(seed)
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(5):
        small = random.uniform(0, 255, (max(2, height >> (1 + octave)), max(2, width >> (1 + octave)), 3))
        layer = Image.fromarray(small.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer, np.float32) * 2.0**octave
    image = Image.fromarray((total / 31).clip(0, 255).astype(np.uint8))
    target = _BYTES_PER_PIXEL * width * height
    for quality in range(95, 20, -5):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= target:
            break
    return buffer.getvalue()
