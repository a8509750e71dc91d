"""Properties of a photo, such as brightness, and the slices into which each property divides photos.

`evaluation.artefact.slices` and `evaluation.artefact.comparison` measure accuracy per slice.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy import ndimage

LEAST: Final = 50
"""Fewest photos for which a slice is judged."""
SIZE: Final = "longest side, pixels"
EDGES: Final[dict[str, tuple[float, ...]]] = {
    SIZE: (250, 400, 490),
    "long side over short": (1.1, 1.35, 1.6),
    "brightness": (0.3, 0.4, 0.5, 0.6),
    "sharpness": (200, 500, 1000, 2000),
    "saturation": (0.03, 0.15, 0.3),
    "JPEG quality": (70, 85, 92),
}
"""Bounds between the slices of each property."""
_LUMINANCE: Final = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601
_STANDARD_LUMINANCE_MEAN: Final = 57.625  # of the 64 values in the JPEG standard's example table K.1


def properties(data: bytes, pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Measure the properties of a photo.

    Args:
        data: The encoded photo.
        pixels: `u8[3,S,S]`, as the network sees it.

    Returns:
        A value for each key of `EDGES`: brightness and saturation from 0 to 1, sharpness as the variance
        of the luminance's Laplacian, JPEG quality as libjpeg counts it (NaN for another format).
    """
    with Image.open(io.BytesIO(data)) as image:
        (width, height), tables = image.size, getattr(image, "quantization", None)
    luminance = np.tensordot(_LUMINANCE, pixels, 1)  # f64[S,S]
    high, low = pixels.max(0).astype(float), pixels.min(0).astype(float)
    return {
        SIZE: max(width, height),
        "long side over short": max(width, height) / min(width, height),
        "brightness": float(luminance.mean()) / 255,
        "sharpness": float(ndimage.laplace(luminance).var()),
        "saturation": float(((high - low) / np.maximum(high, 1)).mean()),
        "JPEG quality": _jpeg_quality(tables[0]) if tables else float("nan"),
    }


def _jpeg_quality(luminance_table: list[int]) -> float:
    """Invert libjpeg's scaling of the standard's table (`jpeg_quality_scaling`)."""
    scale = 100 * float(np.mean(luminance_table)) / _STANDARD_LUMINANCE_MEAN
    return 100 - scale / 2 if scale <= 100 else 5000 / scale


def slices_of(kinds: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series[bool]]]:
    """Each slice of each property: the property, the slice in words, and which photos are in it.

    Args:
        kinds: One column for each key of `EDGES`, one row per photo.
    """
    for name, edges in EDGES.items():
        for low, high in itertools.pairwise((-np.inf, *edges, np.inf)):
            text = f"under {high:g}" if low == -np.inf else f"{low:g} or more"
            if np.isfinite(low) and np.isfinite(high):
                text = f"{low:g} to {high:g}"
            yield name, text, (kinds[name] >= low) & (kinds[name] < high)
