"""Small files that cost a lot, made from their structure; each is what an attacker could send."""

from __future__ import annotations

import functools
import re
import struct
import zlib

from PIL import Image

from tests.pictures import encode

_SCAN = re.compile(rb"\xff\xda")


@functools.cache
def jpeg_of_many_scans(side: int = 8000, scans: int = 4000) -> bytes:
    """A grey progressive JPEG whose last scan, which says nothing, is repeated."""
    data = encode(Image.new("L", (side, side), 90), progressive=True)
    last = [found.start() for found in _SCAN.finditer(data)][-1]
    scan = data[last:-2]
    return data[:-2] + scan * scans + data[-2:]


@functools.cache
def jpeg_progressive_cmyk(side: int = 8000) -> bytes:
    """A valid CMYK JPEG, progressive: its coefficients alone take eight bytes a pixel."""
    return encode(Image.new("CMYK", (side, side), (9, 99, 200, 30)), progressive=True)


def jpeg_with_segments(data: bytes, segment: bytes, count: int) -> bytes:
    """The JPEG with a segment repeated before its first."""
    return data[:2] + segment * count + data[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """The PNG with more chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def tiff(entries: list[tuple[int, int, int, int]], payload: bytes = b"") -> bytes:
    """A little-endian TIFF: entries of tag, type, count and value or offset; the payload begins at 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(payload)) + payload + directory + bytes(4)


def tiff_of_overlapping_entries(count: int = 500, payload_bytes: int = 1 << 20) -> bytes:
    """Each entry names the whole file as its value: copied one by one, they are gigabytes."""
    basic = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 8)]
    more = [(60_000 + number, 7, payload_bytes, 8) for number in range(count)]
    return tiff([*basic, *more], bytes(payload_bytes))


def tiff_of_a_huge_tile(side: int = 40_000) -> bytes:
    """Eight pixels in a tile of gigapixels."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1), (277, 3, 1, 1)]
    tile = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, 64)]
    return tiff([*entries, *tile], bytes(64))


def exif_of_overlapping_entries(count: int = 5000) -> bytes:
    """An EXIF block of 64 KiB whose entries each name all of it."""
    entries = b"".join(struct.pack("<HHII", 1000 + number, 7, 60_000, 0) for number in range(count))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, count) + entries


def gif_of_comments(data: bytes, count: int) -> bytes:
    """The GIF with comments before its first frame."""
    palette = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    return data[:palette] + (b"!\xfe\xff" + bytes(255) + b"\0") * count + data[palette:]


def bmp_run_length_encoded(side: int = 2000, pairs: int = 4_000_000) -> bytes:
    """An 8-bit BMP of runs, which Pillow unpacks in Python."""
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 2 * pairs, 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return (
        b"BM" + struct.pack("<IHHI", start + 2 * pairs, 0, 0, start) + header + bytes(1024) + b"\1\7" * pairs
    )


def webp_of_a_canvas(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is larger than its picture."""
    picture = encode(Image.new("RGB", (16, 16)), "WEBP")[12:]
    canvas = b"\0" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body
