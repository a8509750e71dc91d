"""Changes that photos may undergo in the field, for `shifts`: a file in, the changed file's bytes out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Change = Callable[[Image.Image], Image.Image]
UNCHANGED: Final = "none"
CHANGES: Final[dict[str, Change]] = {
    UNCHANGED: lambda image: image,
    "greyscale": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "dark, a third of the light": lambda image: ImageEnhance.Brightness(image).enhance(1 / 3),
    "a fifth brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "blurred, a hundredth of the side": lambda image: image.filter(
        ImageFilter.GaussianBlur(max(image.size) / 100)
    ),
    "cropped to the middle half": lambda image: image.crop(
        (image.width // 4, image.height // 4, image.width * 3 // 4, image.height * 3 // 4)
    ),
    "thumbnails of 100 pixels": lambda image: ImageOps.contain(image, (100, 100)),
    "upside down": lambda image: image.rotate(180),
}


def changed(path: Path, name: str) -> bytes:
    """The bytes of the photo after the change `name`; without a change, the bytes of the file itself."""
    if name == UNCHANGED:
        return path.read_bytes()
    with Image.open(path) as image:
        buffer = io.BytesIO()
        CHANGES[name](ImageOps.exif_transpose(image).convert("RGB")).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
