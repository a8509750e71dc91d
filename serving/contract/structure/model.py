"""What the structure of an encoded image tells before a pixel of it is decoded.

The modules of this package read it, one per kind of file: bytes in, a `Structure` out.
`serving.contract.preprocess` compares it with the limits. Everything that a sender controls is bounded here:
no loop of ours runs over single bytes, and what Pillow would parse in Python is left out of `essential`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from serving.contract.errors import BrokenImage

STRIP_BYTES: Final = 24
"""Extra bytes for each pixel that is converted at a time, at most `STRIP_PIXELS` of them."""
STRIP_PIXELS: Final = 1 << 20
_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_XMP_ORIENTATION: Final = re.compile(rb"""tiff:Orientation(?:=["']|>)([1-8])""")


@dataclass(frozen=True, slots=True)
class Structure:
    """One encoded image, not decoded."""

    format: str
    width: int
    """In pixels, as stored."""
    height: int
    """In pixels, as stored."""
    memory_bytes: int
    """Upper bound of what decoding takes, beyond the encoded bytes."""
    seconds: float
    """Upper bound of what decoding takes on one core of a machine like the one in `costs`."""
    essential: bytes
    """The file without what says nothing about the pixels of its first frame."""
    orientation: int = 1
    """EXIF orientation that remains to be applied, 1..8, as far as the structure tells."""
    detail: str = ""
    """What makes it costly, for a person; empty if nothing but its size."""


def broken(kind: str, what: str = "its structure is truncated or corrupt") -> BrokenImage:
    """The error for a file of a known kind whose structure cannot be read."""
    return BrokenImage(f"The {kind} image cannot be decoded: {what}.")


def conversion_bytes(pixels: int) -> int:
    """What turning decoded pixels into RGB takes on top, in bytes; it works in strips."""
    return STRIP_BYTES * min(pixels, STRIP_PIXELS)


def orientation_of(exif: bytes) -> int:
    """The orientation in an EXIF block, 1..8; 1, upright, if it is absent or damaged.

    It reads one entry of the first directory. A general reader copies every entry, and entries that overlap
    turn a block of 64 KiB into hundreds of megabytes.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    at = struct.unpack_from(order + "I", exif, 4)[0]
    if at + 2 > len(exif):
        return 1
    count = struct.unpack_from(order + "H", exif, at)[0]
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == _ORIENTATION and kind == _SHORT:
            value: int = struct.unpack_from(order + "H", exif, entry + 8)[0]
            return value if 1 <= value <= 8 else 1
    return 1


def orientation_in_xmp(xmp: bytes) -> int:
    """The orientation in an XMP packet, 1..8; 1 if it has none."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
