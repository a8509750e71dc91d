"""Eleven corruptions of a photo, each at five strengths: `u8[3,S,S]` in, `u8[3,S,S]` out.

Strengths are those of ImageNet-C (Hendrycks and Dietterich 2019); motion blur (a line of 7 to 31 pixels),
darkness and greyscale are added. Its weather, glass, zoom and elastic distortions are left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]
Unit = npt.NDArray[np.floating[Any]]
"""Samples of a photo from 0 to 1, `f[3,S,S]`."""

STRENGTHS: Final = (1, 2, 3, 4, 5)
_KERNEL_SIDE: Final = 33


def _gaussian_noise(x: Unit, level: int, random: np.random.Generator) -> Unit:
    return x + random.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=x.shape)


def _shot_noise(x: Unit, level: int, random: np.random.Generator) -> Unit:
    photons = (60, 25, 12, 5, 3)[level]
    return random.poisson(x * photons) / photons


def _impulse_noise(x: Unit, level: int, random: np.random.Generator) -> Unit:
    hit = random.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(hit, random.integers(0, 2, x.shape), x)


def _defocus(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    radius = (3, 4, 6, 8, 10)[level]
    y, z = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (y * y + z * z <= radius * radius).astype(float)
    return _filtered(x, disk)


def _motion(x: Unit, level: int, random: np.random.Generator) -> Unit:
    length = (7, 11, 15, 21, 31)[level]
    line = np.zeros((_KERNEL_SIDE, _KERNEL_SIDE))
    line[_KERNEL_SIDE // 2, (_KERNEL_SIDE - length) // 2 : (_KERNEL_SIDE + length) // 2] = 1
    kernel = ndimage.rotate(line, random.uniform(-45, 45), reshape=False, order=1)
    return _filtered(x, kernel)


def _brightness(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    return x + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def _darkness(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    return x * (0.7, 0.5, 0.35, 0.2, 0.1)[level]


def _contrast(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    mean: Unit = x.mean((1, 2), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _greyscale(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    grey: Unit = np.tensordot((0.299, 0.587, 0.114), x, 1)[None]  # ITU-R BT.601
    share = (0.2, 0.4, 0.6, 0.8, 1.0)[level]
    return (1 - share) * x + share * grey


def _pixelate(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    image = _image(x)
    side = max(1, int(x.shape[1] * (0.6, 0.5, 0.4, 0.3, 0.25)[level]))
    box = Image.Resampling.BOX
    return _unit(image.resize((side, side), box).resize(image.size, box))


def _jpeg(x: Unit, level: int, random: np.random.Generator) -> Unit:
    del random
    buffer = io.BytesIO()
    _image(x).save(buffer, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return _unit(Image.open(buffer))


CORRUPTIONS: Final[dict[str, Callable[[Unit, int, np.random.Generator], Unit]]] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus": _defocus,
    "motion blur": _motion,
    "brightness": _brightness,
    "darkness": _darkness,
    "low contrast": _contrast,
    "greyscale": _greyscale,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


def corrupt(pixels: Pixels, name: str, strength: int, seed: int) -> Pixels:
    """`pixels` under the corruption `name` at a strength from 1 to 5; the same seed gives the same result."""
    random = np.random.default_rng(seed)
    changed = CORRUPTIONS[name](pixels / 255.0, strength - 1, random)
    return (np.clip(changed, 0, 1) * 255).round().astype(np.uint8)


def _filtered(x: Unit, kernel: Unit) -> Unit:
    blurred: Unit = ndimage.convolve(x, (kernel / kernel.sum())[None], mode="nearest")
    return blurred


def _image(x: Unit) -> Image.Image:
    return Image.fromarray((np.clip(x, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def _unit(image: Image.Image) -> Unit:
    return np.asarray(image, np.float64).transpose(2, 0, 1) / 255
