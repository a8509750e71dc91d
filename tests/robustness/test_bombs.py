"""Small files that declare or unpack to a lot: refused, or decoded within bounds."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib

import httpx
import pytest
from PIL import Image

from tests.pictures import encode, scene
from tests.robustness.conftest import Target

pytestmark = pytest.mark.robust


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG with these rows, whatever it declares."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")):
        data += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    return data


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    """The file with its declared size changed."""
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


def jpeg_size(width: int, height: int) -> bytes:
    """A small JPEG that declares another size."""
    data = encode(scene(64, 48))
    return patched(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)


def polyglot() -> bytes:
    """A JPEG that is also a zip file."""
    buffer = io.BytesIO(encode(scene()))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("a.txt", "x" * 10_000)
    return buffer.getvalue()


TEXT = (b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
FRAMES = [Image.new("L", (500, 500), shade % 255) for shade in range(200)]
LARGE = (10_000, 6000)
BOMBS = {
    "png of 900 megapixels": (png(30_000, 30_000, 1, 0, bytes(100_000)), {413}),
    "png of 64 megapixels in 8 kB": (png(8000, 8000, 1, 0, bytes(8000 * 1001)), {200, 504}),
    "png of 60 megapixels with alpha": (encode(Image.new("RGBA", LARGE), "PNG"), {413}),
    "png text bomb": (
        png(8, 8, 8, 0, bytes(72), (b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        {200, 422},
    ),
    "gif that declares 65535 x 65535": (patched(encode(scene(), "GIF"), 6, "<HH", 65535, 65535), {413, 422}),
    "gif of 200 frames": (encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES), {200}),
    "jpeg that declares 65500 x 65500": (jpeg_size(65500, 65500), {413}),
    "jpeg that declares 16000 x 4000": (jpeg_size(16_000, 4000), {200, 422}),
    "webp of 60 megapixels": (encode(Image.new("RGB", LARGE), "WEBP"), {413}),
    "tiff of 60 megapixels": (
        encode(Image.new("L", LARGE), "TIFF", compression="tiff_lzw"),
        {200, 504},
    ),
    "bmp that declares 60000 x 60000": (
        patched(encode(scene(), "BMP"), 18, "<ii", 60_000, 60_000),
        {413, 422},
    ),
    "jpeg and zip at once": (polyglot(), {200}),
    "one pixel by 16384": (encode(Image.new("RGB", (1, 16_384)), "PNG"), {200}),
    "one pixel": (encode(Image.new("RGB", (1, 1)), "GIF"), {200}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(target: Target, name: str):
    """The status is an expected one, the answer is not late, and memory stays bounded."""
    data, statuses = BOMBS[name]
    began = time.perf_counter()
    response = httpx.post(target.url + "/predict", files={"file": ("x", data)}, timeout=30)
    seconds = time.perf_counter() - began
    print(f"\nbomb {name}: {len(data)} bytes, {response.status_code} after {seconds:.2f} s")
    print(f"peak of the process so far {target.peak_mb():.0f} MB")
    assert response.status_code in statuses
    assert seconds < 4
    assert target.peak_mb() < 1300
    target.check(encode(scene()))
