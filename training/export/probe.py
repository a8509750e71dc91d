"""The probe: drawn pictures that two machines may decode differently, each with its probabilities."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.contract.artifact import ProbeImage
from serving.contract.preprocess import preprocess
from training.photos.drawn import draw

_SEED = 20


def make_probe(
    predict: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], size: int
) -> list[ProbeImage]:
    """The probe's pictures with the probabilities that the exporting process has for them.

    Args:
        predict: `u8[1,3,S,S]` to probabilities `f32[1,K]`: the eager network, or the quantised one.
        size: S.
    """
    return [
        ProbeImage(name, data, predict(preprocess(data, size).pixels[None])[0].tolist())
        for name, data in probe_images().items()
    ]


def probe_images() -> dict[str, bytes]:
    """Encoded pictures by name: large and not square, rotated by EXIF, RGBA, CMYK, grey, 16-bit."""
    cat, dog = (draw(label, np.random.default_rng((_SEED, i))) for i, label in enumerate(("cat", "dog")))
    turned = Image.Exif()
    turned[0x0112] = 6  # display rotated 90 degrees clockwise
    clear = dog.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = (np.asarray(cat.convert("L"), np.uint16) * 257).astype(np.uint16)
    return {
        "large.jpg": _encode(cat.resize((1600, 900), Image.Resampling.BICUBIC), "JPEG", quality=80),
        "turned.jpg": _encode(dog.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=turned),
        "rgba.png": _encode(clear, "PNG"),
        "cmyk.jpg": _encode(cat.convert("CMYK"), "JPEG", quality=90),
        "grey.png": _encode(dog.convert("L"), "PNG"),
        "sixteen-bit.png": _encode(Image.fromarray(deep), "PNG"),
    }


def _encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
