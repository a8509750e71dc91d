"""Encoded pictures for tests, drawn here."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def scene(width: int = 120, height: int = 80) -> Image.Image:
    """An RGB picture whose four corners differ: red, green, blue and white."""
    corners = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def encode(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    """The picture in a file format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int, width: int = 120, height: int = 80) -> bytes:
    """A JPEG of `scene` stored so that it looks upright once EXIF `orientation` is applied."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = scene(width, height)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image if undo is None else image.transpose(undo), exif=exif, quality=95)
