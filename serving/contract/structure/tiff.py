"""The structure of a TIFF: its first directory (TIFF 6.0)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final

from serving.contract.structure.costs import JPEG_BLOCK, NS, PIXEL, TIFF_BYTE, TIFF_PART, TIFF_SLOW_BYTE
from serving.contract.structure.model import Structure, broken, conversion_bytes

_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBERS: Final = {1: "B", 3: "H", 4: "I"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS = 256, 257, 258, 259, 277, 278
_STRIPS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _ORIENTATION = 273, 322, 323, 324, 274
_PART_BYTES: Final = (279, 325)  # sizes of strips and tiles
_PARTS: Final = (_STRIPS, _TILES, *_PART_BYTES)
_SLACK: Final = 4096  # some writers count a few bytes too many
_NOT_READ: Final = frozenset((330, 700, 33723, 34377, 34665, 34675, 34853, 37724, 40965, 50341))
"""Metadata, and directories of it, of which Pillow would copy every entry, whether they overlap or not."""
_MOST_ENTRIES: Final = 1000
_MOST_PARTS: Final = 1 << 16
_JPEG: Final = (6, 7)
_FAST: Final = (1, 2, 3, 4, 5, *_JPEG, 8, 32773, 32946, 50000)


def read(data: bytes) -> Structure:
    """The structure of a TIFF.

    Raises:
        BrokenImage: the directory is damaged, or its entries, strips and tiles are larger than the file.
    """
    order = "<" if data[:2] == b"II" else ">"
    tags: dict[int, int] = {}
    parts, described = 0, 0
    essential = bytearray()
    for at, tag, kind, count in _entries(data, order):
        size = _SIZES.get(kind, 8) * count
        if tag in _NOT_READ:
            essential = essential or bytearray(data)
            struct.pack_into(order + "I", essential, at + 4, 0)  # an entry of no values
            continue
        described += size
        if tag in _PARTS:
            parts = max(parts, count)
        if tag in _PART_BYTES and count <= _MOST_PARTS:
            described += sum(_numbers(data, order, at, kind, count))
        tags[tag] = max(tags.get(tag, 0), *_numbers(data, order, at, kind, min(count, 8)), 0)
    if described > len(data) + _SLACK or parts > _MOST_PARTS:
        raise broken("TIFF", "its directory describes more than the file holds")
    return _structure(data, bytes(essential) or data, tags, parts)


def _structure(data: bytes, essential: bytes, tags: dict[int, int], parts: int) -> Structure:
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    bits, samples = tags.get(_BITS, 1), tags.get(_SAMPLES, 1)
    pixels, turned = width * height, tags.get(_ORIENTATION, 1) > 1
    if _TILES in tags or _TILE_WIDTH in tags:
        across, down = max(1, tags.get(_TILE_WIDTH, width)), max(1, tags.get(_TILE_HEIGHT, height))
        part = across * down
        unpacked = part * math.ceil(width / across) * math.ceil(height / down)
    else:
        part, unpacked = width * min(height, tags.get(_ROWS, height)), pixels
    sample_bytes = math.ceil(bits * samples / 8)
    stored = 4 if samples > 1 or bits > 16 or tags.get(_COMPRESSION) in _JPEG else 2 if bits > 8 else 1
    per_byte = TIFF_BYTE if tags.get(_COMPRESSION, 1) in _FAST else TIFF_SLOW_BYTE
    seconds = NS * (per_byte * unpacked * sample_bytes + PIXEL * stored * pixels + TIFF_PART * parts)
    if tags.get(_COMPRESSION) in _JPEG:
        seconds += NS * JPEG_BLOCK * data.count(b"\xff\xda") * samples * part / 64
    return Structure(
        format="TIFF",
        width=width,
        height=height,
        memory_bytes=pixels * stored * (2 if turned else 1)
        + 2 * part * max(sample_bytes, 4 if stored == 4 else 1)
        + len(data)
        + conversion_bytes(pixels),
        seconds=seconds,
        essential=essential,
    )


def _entries(data: bytes, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Offset, tag, type and count of each entry of the first directory."""
    if len(data) < 8:
        raise broken("TIFF")
    start = struct.unpack_from(order + "I", data, 4)[0]
    if start + 2 > len(data):
        raise broken("TIFF")
    entries = struct.unpack_from(order + "H", data, start)[0]
    if entries > _MOST_ENTRIES:
        raise broken("TIFF", f"its directory has {entries} entries")
    for at in range(start + 2, min(start + 2 + 12 * entries, len(data) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, at)
        yield at, tag, kind, count


def _numbers(data: bytes, order: str, at: int, kind: int, count: int) -> tuple[int, ...]:
    """The first `count` numbers of an entry; none if it has another type or leads out of the file."""
    form = _NUMBERS.get(kind)
    if form is None or not count:
        return ()
    total = struct.unpack_from(order + "I", data, at + 4)[0]
    offset = at + 8 if _SIZES[kind] * total <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
    if offset + count * _SIZES[kind] > len(data):
        return ()
    return struct.unpack_from(f"{order}{count}{form}", data, offset)
