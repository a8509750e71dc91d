"""The structure of a PNG: its chunks (PNG specification, third edition)."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Final

from serving.contract.structure.costs import NS, PIXEL, PNG_BYTE
from serving.contract.structure.model import (
    Structure,
    broken,
    conversion_bytes,
    orientation_in_xmp,
    orientation_of,
)

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_KEPT: Final = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MOST_CHUNKS: Final = 10_000
_MOST_TEXT_BYTES: Final = 1 << 17
_RAW_EXIF: Final = b"Raw profile type exif"
_XMP: Final = b"XML:com.adobe.xmp"


def read(data: bytes) -> Structure:
    """The structure of a PNG.

    Raises:
        BrokenImage: it has no header, or chunks without end.
    """
    header: tuple[int, int, int, int] | None = None
    kept: list[bytes | memoryview] = [SIGNATURE]
    whole, view = True, memoryview(data)
    orientation, at = 1, len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IHDR" and header is None and length >= 13:
            header = struct.unpack_from(">IIBB", data, at + 8)
        elif kind == b"IHDR":
            raise broken("PNG", "it has two headers")
        if kind in _KEPT:
            kept.append(view[at:end])
        else:
            whole = False
            if orientation == 1 and length <= _MOST_TEXT_BYTES:
                orientation = _orientation(kind, data[at + 8 : end - 4])
        at = end
        if kind == b"IEND":
            break
    else:
        raise broken("PNG", f"it has more than {_MOST_CHUNKS} chunks")
    if header is None or header[3] not in _CHANNELS:
        raise broken("PNG", "its header is truncated or corrupt")
    width, height, bits, colour = header
    pixels, channels = width * height, _CHANNELS[colour]
    unpacked = height * (1 + math.ceil(width * bits * channels / 8))
    stored = 4 if channels > 1 else 2 if bits == 16 else 1
    return Structure(
        format="PNG",
        width=width,
        height=height,
        memory_bytes=pixels * stored + conversion_bytes(pixels),
        seconds=NS * (PNG_BYTE * unpacked + PIXEL * stored * pixels),
        essential=data if whole else b"".join(kept),
        orientation=orientation,
    )


def _orientation(kind: bytes, content: bytes) -> int:
    """The orientation in a chunk of metadata: EXIF, EXIF as text (ImageMagick) or XMP; 1 if it has none."""
    if kind == b"eXIf":
        return orientation_of(content)
    name, _, rest = content.partition(b"\0")
    if kind == b"zTXt" and name == _RAW_EXIF:
        return _orientation_in_text(_unpacked(rest[1:]))
    if kind == b"tEXt" and name == _RAW_EXIF:
        return _orientation_in_text(rest)
    if kind == b"iTXt" and name == _XMP:
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        return orientation_in_xmp(_unpacked(text) if rest[:1] == b"\1" else text)
    return 1


def _orientation_in_text(text: bytes) -> int:
    try:
        return orientation_of(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
    except ValueError:
        return 1


def _unpacked(content: bytes) -> bytes:
    """The beginning of deflated text: more is never needed, however much it unfolds to."""
    try:
        return zlib.decompressobj().decompress(content, _MOST_TEXT_BYTES)
    except zlib.error:
        return b""
