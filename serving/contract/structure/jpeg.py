"""The structure of a JPEG: segments, scans and blocks (ITU-T T.81)."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from typing import Final

from serving.contract.errors import UnsupportedImage
from serving.contract.structure.costs import (
    JPEG_BLOCK,
    JPEG_BYTE,
    JPEG_COEFFICIENT_BYTE,
    JPEG_PIXEL,
    JPEG_PROGRESSIVE_BYTE,
    NS,
)
from serving.contract.structure.model import (
    Structure,
    broken,
    conversion_bytes,
    orientation_in_xmp,
    orientation_of,
)

_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
_END_OF_SCAN: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_NO_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE: Final = 0xC2
_OTHER_FRAMES: Final = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "arithmetic-coded"),
}
_TABLES: Final = (0xC4, 0xDB, 0xDD)  # Huffman, quantisation, restart interval
_COLOURS: Final = (0xE0, 0xEE)  # JFIF and Adobe say which colours the components are
_KEPT: Final = frozenset((*_FRAMES, *_TABLES, *_COLOURS))
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_MOST_SEGMENTS: Final = 2000
_MOST_TABLE_BYTES: Final = 1 << 18
_COEFFICIENT_BYTES: Final = 128  # of a block
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass
class _Frame:
    width: int
    height: int
    progressive: bool
    blocks: dict[int, int]
    """Blocks of 8x8 samples by component."""


@dataclass
class _Walk:
    """What one pass over the segments has found."""

    kept: list[tuple[int, int]] = field(default_factory=list)
    frame: _Frame | None = None
    first_scan: int = 0
    scans: int = 0
    blocks: int = 0
    """Of all scans together."""
    interleaved: bool = True
    """Whether one scan holds all components."""
    orientation: int = 1
    table_bytes: int = 0
    """Of all that is kept."""


def read(data: bytes, size: int, enough_seconds: float) -> Structure:
    """The structure of a JPEG.

    Args:
        data: The file.
        size: The width and height, in pixels, that it is to have in the end.
        enough_seconds: Once the scans take longer, the rest of the file is not read.

    Raises:
        UnsupportedImage: lossless, hierarchical, arithmetic-coded, or with other than 8 bits a sample.
        BrokenImage: it has no frame or no scan.
    """
    walk = _walk(data, enough_seconds / (NS * JPEG_BLOCK))
    frame = walk.frame
    if frame is None or not walk.first_scan:
        raise broken("JPEG", "it is truncated before its first scan, or corrupt")
    scale = next((s for s in (8, 4, 2) if s <= min(frame.width, frame.height) // size), 1)
    output = math.ceil(frame.width / scale) * math.ceil(frame.height / scale)
    channels = 1 if len(frame.blocks) == 1 else 4
    whole = frame.progressive or not walk.interleaved  # all coefficients are kept until the last scan
    coefficients = _COEFFICIENT_BYTES * sum(frame.blocks.values()) if whole else 0
    per_byte = JPEG_PROGRESSIVE_BYTE if whole else JPEG_BYTE
    nanoseconds = (
        JPEG_BLOCK * walk.blocks
        + per_byte * len(data)
        + JPEG_PIXEL * output
        + JPEG_COEFFICIENT_BYTE * coefficients
    )
    return Structure(
        format="JPEG",
        width=frame.width,
        height=frame.height,
        memory_bytes=coefficients + output * channels + conversion_bytes(output),
        seconds=NS * nanoseconds,
        essential=_essential(data, walk),
        orientation=walk.orientation,
        detail=f"it has {walk.scans} scans or more" if walk.scans > 1 else "",
    )


def _walk(data: bytes, enough_blocks: float) -> _Walk:
    walk, at = _Walk(), 2
    for _ in range(_MOST_SEGMENTS):
        found = (_END_OF_SCAN if walk.first_scan else _MARKER).search(data, at)
        if found is None:
            return walk
        marker, start = found[1][0], found.start()
        at = found.end()
        if marker == _END:
            return walk
        if marker in _NO_LENGTH:
            continue
        if at + 2 > len(data):
            return walk
        end = at + struct.unpack_from(">H", data, at)[0]
        _read_segment(walk, marker, start, data[at + 2 : end])
        at = max(end, at + 2)
        if walk.blocks > enough_blocks:
            return walk
    raise broken("JPEG", f"it has more than {_MOST_SEGMENTS} segments")


def _read_segment(walk: _Walk, marker: int, start: int, content: bytes) -> None:
    if marker in _OTHER_FRAMES:
        raise _unsupported(_OTHER_FRAMES[marker])
    if marker in _FRAMES:
        if walk.frame is not None:
            raise broken("JPEG", "it has two frames")
        walk.frame = _frame(marker, content)
    elif marker == _SCAN:
        _read_scan(walk, start, content)
    elif marker == _APP1 and walk.orientation == 1:
        walk.orientation = _orientation(content)
    if marker in _KEPT and not walk.first_scan:
        walk.kept.append((start, start + 4 + len(content)))
        walk.table_bytes += len(content)
        if walk.table_bytes > _MOST_TABLE_BYTES:
            raise broken("JPEG", "its tables are larger than any that a decoder needs")


def _orientation(content: bytes) -> int:
    if content.startswith(b"Exif\0\0"):
        return orientation_of(content)
    return orientation_in_xmp(content) if content.startswith(_XMP) else 1


def _frame(marker: int, content: bytes) -> _Frame:
    if len(content) < 6 or len(content) < 6 + 3 * content[5]:
        raise broken("JPEG")
    bits, height, width, count = struct.unpack_from(">BHHB", content)
    if bits != 8:
        raise _unsupported(f"{bits}-bit")
    if not width or not height or count not in (1, 3, 4):
        raise broken("JPEG", f"it declares {width}x{height} pixels of {count} components")
    components = {content[6 + 3 * i]: divmod(content[7 + 3 * i], 16) for i in range(count)}
    across = max(horizontal for horizontal, _ in components.values())
    down = max(vertical for _, vertical in components.values())
    if len(components) < count or not all(1 <= f <= 4 for pair in components.values() for f in pair):
        raise broken("JPEG")
    columns, rows = math.ceil(width / (8 * across)), math.ceil(height / (8 * down))
    blocks = {name: columns * h * rows * v for name, (h, v) in components.items()}
    return _Frame(width, height, marker == _PROGRESSIVE, blocks)


def _read_scan(walk: _Walk, start: int, content: bytes) -> None:
    if walk.frame is None or not content or len(content) < 1 + 2 * content[0]:
        raise broken("JPEG")
    named = {content[1 + 2 * i] for i in range(content[0])}
    blocks = walk.frame.blocks
    if not walk.first_scan:
        walk.first_scan = start
        walk.interleaved = named >= blocks.keys()
    walk.scans += 1
    walk.blocks += sum(count for name, count in blocks.items() if name in named)


def _essential(data: bytes, walk: _Walk) -> bytes:
    """The file without metadata, which Pillow would read in time and memory without bound."""
    head = b"".join(data[start:end] for start, end in walk.kept)
    if 2 + len(head) == walk.first_scan:
        return data
    return b"".join((b"\xff\xd8", head, data[walk.first_scan :]))


def _unsupported(kind: str) -> UnsupportedImage:
    return UnsupportedImage(
        f"This kind of JPEG ({kind}) is not supported. Save it as an ordinary JPEG with 8 bits a sample, or "
        "as PNG."
    )
