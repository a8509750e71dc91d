"""The structures of GIF, BMP, WebP and AVIF, as far as they tell size and cost."""

from __future__ import annotations

import re
import struct
from typing import Final

from serving.contract.structure.costs import (
    AVIF_PIXEL,
    BMP_PIXEL,
    BMP_RLE_BYTE,
    GIF_PIXEL,
    NS,
    WEBP_PIXEL,
)
from serving.contract.structure.model import Structure, broken, conversion_bytes

_GIF_BYTES: Final = 2  # canvas and first frame, for each pixel
_BMP_BYTES: Final = 4
_WEBP_BYTES: Final = 16  # libwebp's two canvases, its answer, and Pillow's image
_AVIF_BYTES: Final = 14  # planes of 16 bits, RGBA, and Pillow's image
_MOST_GIF_BLOCKS: Final = 20_000
_RLE: Final = (1, 2)
_ISPE: Final = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)
_MOST_AVIF_SIZES: Final = 1000


def read_gif(data: bytes) -> Structure:
    """The structure of a GIF up to its first frame.

    Its comments and extensions are left out: Pillow joins them one by one, in quadratic time.

    Raises:
        BrokenImage: it ends, or runs on, before its first frame.
    """
    if len(data) < 13:
        raise broken("GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    head = at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    control = b""
    blocks = 0
    while data[at : at + 1] == b"!":
        start, at = at, at + 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
        at += 1
        blocks += 1
        if blocks > _MOST_GIF_BLOCKS:
            raise broken("GIF", "it has no frame among its first 20,000 blocks")
        if data[start + 1 : start + 2] == b"\xf9":
            control = data[start:at]
    if data[at : at + 1] != b"," or at + 10 > len(data):
        raise broken("GIF", "it has no frame")
    left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
    width, height = max(width, left + across), max(height, top + down)
    pixels = width * height
    return Structure(
        format="GIF",
        width=width,
        height=height,
        memory_bytes=_GIF_BYTES * pixels + conversion_bytes(pixels),
        seconds=NS * GIF_PIXEL * pixels,
        essential=data if at == head else b"".join((data[:head], control, data[at:])),
    )


def read_bmp(data: bytes) -> Structure:
    """The structure of a BMP.

    Raises:
        BrokenImage: its header is truncated.
    """
    if len(data) < 34:
        raise broken("BMP")
    size = struct.unpack_from("<I", data, 14)[0]
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        compression = 0
    else:
        width, height = map(abs, struct.unpack_from("<ii", data, 18))
        compression = struct.unpack_from("<I", data, 30)[0]
    pixels, packed = width * height, compression in _RLE
    return Structure(
        format="BMP",
        width=width,
        height=height,
        memory_bytes=_BMP_BYTES * pixels + conversion_bytes(pixels),
        seconds=NS * (BMP_PIXEL * pixels + (BMP_RLE_BYTE * len(data) if packed else 0)),
        essential=data,
        detail="it is run-length encoded" if packed else "",
    )


def read_webp(data: bytes) -> Structure:
    """The structure of a WebP: the size of its canvas.

    Raises:
        BrokenImage: its header is truncated or corrupt.
    """
    kind = data[12:16]
    if len(data) < 30:
        raise broken("WEBP")
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise broken("WEBP")
    pixels = width * height
    return Structure(
        format="WEBP",
        width=width,
        height=height,
        memory_bytes=_WEBP_BYTES * pixels + conversion_bytes(pixels),
        seconds=NS * WEBP_PIXEL * pixels,
        essential=data,
    )


def read_avif(data: bytes) -> Structure:
    """The structure of an AVIF: the largest size that one of its items declares.

    Raises:
        BrokenImage: no item declares a size.
    """
    found = [match[1] for match, _ in zip(_ISPE.finditer(data), range(_MOST_AVIF_SIZES), strict=False)]
    width, height = max(
        (struct.unpack(">II", size) for size in found), key=lambda size: size[0] * size[1], default=(0, 0)
    )
    if not width or not height:
        raise broken("AVIF")
    pixels = width * height
    return Structure(
        format="AVIF",
        width=width,
        height=height,
        memory_bytes=_AVIF_BYTES * pixels + conversion_bytes(pixels),
        seconds=NS * AVIF_PIXEL * pixels,
        essential=data,
    )
