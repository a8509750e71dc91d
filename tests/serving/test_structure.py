"""What an image costs is known, and bounded, before a pixel of it is decoded."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import psutil
import pytest
from PIL import Image

from serving.contract.errors import BrokenImage, ImageError, ImageTooLarge, UnsupportedImage
from serving.contract.preprocess import Limits, inspect, preprocess
from serving.contract.structure.sniff import FORMATS
from tests import hostile
from tests.pictures import encode, scene

LIMITS = Limits()


def structure(data: bytes):
    """The structure of an image that is within the default limits."""
    return inspect(data, 224, LIMITS)


def test_refuses_a_jpeg_of_thousands_of_scans_and_says_why():
    """0.6 MB inside every other limit: it held a worker for half a minute."""
    with pytest.raises(
        ImageTooLarge, match=r"it has \d+ scans or more: decoding it takes up to \d+\.\d s; at most 1.5 s"
    ):
        structure(hostile.jpeg_of_many_scans())


def test_refuses_what_would_take_too_much_memory():
    """Each is a small file that takes hundreds of megabytes."""
    for data in (
        hostile.jpeg_progressive_cmyk(),
        hostile.webp_of_a_canvas(8000, 8000),
        hostile.tiff_of_a_huge_tile(),
    ):
        assert len(data) < 2e6
        with pytest.raises(ImageTooLarge, match="MB of memory; at most 235 MB are accepted"):
            structure(data)


def camera(megapixels: float, **options: object) -> bytes:
    """A photo as large as a camera's, of little detail."""
    height = round((1e6 * megapixels * 3 / 4) ** 0.5)
    return encode(scene(80, 60).resize((height * 4 // 3, height)), **options)


@pytest.mark.parametrize(
    ("megapixels", "options"),
    [
        (12, {}),
        (48, {"quality": 95}),
        (24, {"progressive": True, "quality": 95}),
        (24, {"form": "PNG"}),
        (12, {"form": "WEBP", "method": 0}),
        (24, {"form": "TIFF", "compression": "tiff_lzw"}),
    ],
)
def test_accepts_what_cameras_make(megapixels: float, options: dict[str, object]):
    """Well within the limits, so that detail has room."""
    found = structure(camera(megapixels, **options))
    assert found.width * found.height == pytest.approx(1e6 * megapixels, rel=0.01)
    assert found.seconds < LIMITS.max_decode_seconds
    assert found.memory_bytes < LIMITS.max_decode_bytes


HOSTILE = {
    "a JPEG of empty segments": hostile.jpeg_with_segments(encode(scene()), b"\xff\xfe\0\2", 200_000),
    "a JPEG of fill bytes": encode(scene())[:2] + b"\xff" * 2_000_000 + encode(scene())[2:],
    "a JPEG of stuffed bytes": encode(scene())[:2] + b"\xff\0" * 1_000_000 + encode(scene())[2:],
    "a JPEG of zeros": encode(scene())[:2] + bytes(2_000_000) + encode(scene())[2:],
    "a JPEG of tables": hostile.jpeg_with_segments(encode(scene()), b"\xff\xdb\xff\xff" + bytes(65533), 40),
    "a JPEG of overlapping EXIF": hostile.jpeg_with_segments(
        encode(scene()), b"\xff\xe1\xea\x70" + hostile.exif_of_overlapping_entries().ljust(60_014, b"\0"), 1
    ),
    "a PNG of empty chunks": hostile.png_with_chunks(
        encode(scene(), "PNG"), hostile.chunk(b"teXt", b"") * 200_000
    ),
    "a PNG of overlapping EXIF": hostile.png_with_chunks(
        encode(scene(), "PNG"), hostile.chunk(b"eXIf", hostile.exif_of_overlapping_entries()[6:])
    ),
    "a GIF of comments": hostile.gif_of_comments(encode(scene(), "GIF"), 20_000),
    "a BMP of runs": hostile.bmp_run_length_encoded(),
    "a TIFF of overlapping entries": hostile.tiff_of_overlapping_entries(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_nearly_nothing(name: str):
    """Answered or refused, within a tenth of a second of processor time and a few megabytes."""
    data = HOSTILE[name]
    process = psutil.Process()
    preprocess(encode(scene()), 224)
    before, memory = process.cpu_times().user, process.memory_info().rss
    with contextlib.suppress(ImageError):
        preprocess(data, 224)
    assert process.cpu_times().user - before < 0.5
    assert process.memory_info().rss - memory < 50e6


def test_metadata_does_not_change_the_pixels():
    """What is left out says nothing about them; colours, profiles and frames stay as they are."""
    seeds = {
        "JPEG": hostile.jpeg_with_segments(encode(scene()), b"\xff\xe1\0\x10" + bytes(14), 3),
        "CMYK": hostile.jpeg_with_segments(encode(scene().convert("CMYK")), b"\xff\xe2\0\4ab", 1),
        "PNG": hostile.png_with_chunks(encode(scene(), "PNG"), hostile.chunk(b"tEXt", b"a\0b")),
        "GIF": hostile.gif_of_comments(encode(scene(), "GIF", transparency=0), 3),
    }
    for name, data in seeds.items():
        plain = {"JPEG": encode(scene()), "CMYK": encode(scene().convert("CMYK"))}.get(
            name, encode(scene(), name) if name == "PNG" else encode(scene(), "GIF", transparency=0)
        )
        assert len(structure(data).essential) < len(data)
        np.testing.assert_array_equal(preprocess(data, 64).pixels, preprocess(plain, 64).pixels)


ANCILLARY = {
    "a text that unfolds to megabytes": hostile.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))),
    "an international one": hostile.chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
    "a profile that does": hostile.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000))),
    "a text with a wrong checksum": hostile.chunk(b"tEXt", b"a\0b")[:-1] + b"?",
}


@pytest.mark.parametrize("name", ANCILLARY)
def test_a_fault_beside_the_pixels_of_a_png_is_no_fault(name: str):
    """As in a browser; a wrong checksum of the pixels themselves stays one."""
    data = encode(scene(), "PNG")
    with_fault = hostile.png_with_chunks(data, ANCILLARY[name])
    np.testing.assert_array_equal(preprocess(with_fault, 64).pixels, preprocess(data, 64).pixels)
    at = data.index(b"IDAT") + 30
    with pytest.raises(BrokenImage):
        preprocess(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :], 64)


def oriented(form: str, orientation: int) -> bytes:
    """A scene stored turned, with the tag that turns it upright again."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = scene(120, 80)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}
    return encode(stored, form, exif=exif.tobytes() if form != "TIFF" else exif, **options.get(form, {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_every_format_is_turned_upright_once(form: str, orientation: int):
    """By its tag, whoever applies it; the size is that of the picture as displayed."""
    upright = preprocess(encode(scene(120, 80), "PNG"), 64).pixels.astype(int)
    found = preprocess(oriented(form, orientation), 64)
    assert (found.width, found.height) == (120, 80)
    assert np.abs(found.pixels.astype(int) - upright).mean() < 6


def test_an_orientation_in_xmp_or_in_text_counts():
    """Where there is no EXIF: as Lightroom and ImageMagick write it."""
    stored = scene(120, 80).transpose(Image.Transpose.ROTATE_90)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    jpeg = hostile.jpeg_with_segments(
        encode(stored), b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content, 1
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    lines = exif.tobytes().hex()
    text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n      26\n{lines}\n".encode())
    for data in (
        jpeg,
        hostile.png_with_chunks(encode(stored, "PNG"), hostile.chunk(b"zTXt", text)),
        hostile.png_with_chunks(
            encode(stored, "PNG"), hostile.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        ),
    ):
        assert (preprocess(data, 64).width, preprocess(data, 64).height) == (120, 80)


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_key_colour_is_white(mode: str):
    """A PNG may declare one colour as transparent; what it hides does not show."""
    pixels = np.zeros((8, 8, 3) if mode == "RGB" else (8, 8), np.uint16 if mode == "I;16" else np.uint8)
    pixels[:4] = 200 if mode != "I;16" else 40_000
    key = {"RGB": (0, 0, 0), "L": 0, "I;16": 0}[mode]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", transparency=key)
    found = preprocess(buffer.getvalue(), 8).pixels
    assert (found[:, 6:] == 255).all()
    assert (found[:, 0] < 210).all()


def test_a_key_colour_of_sixteen_bits_in_colour_is_white():
    """Pillow reduces the pixels to 8 bits and leaves the key at 16."""
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC) * 8 for _ in range(8))
    data = (
        b"\x89PNG\r\n\x1a\n"
        + hostile.chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
        + hostile.chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))
        + hostile.chunk(b"IDAT", zlib.compress(rows))
        + hostile.chunk(b"IEND", b"")
    )
    assert (preprocess(data, 8).pixels == 255).all()


def test_refuses_samples_of_32_bits():
    """Integers as well as floats: nobody knows which value is white."""
    for kind in (np.int32, np.float32):
        with pytest.raises(UnsupportedImage, match="8 or 16 bits are accepted"):
            preprocess(encode(Image.fromarray(np.arange(64, dtype=kind).reshape(8, 8)), "TIFF"), 8)


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [(0xC1, 12, "12-bit"), (0xC3, 8, "lossless"), (0xC9, 8, "arithmetic-coded"), (0xC5, 8, "hierarchical")],
)
def test_refuses_kinds_of_jpeg_that_no_browser_shows(marker: int, bits: int, kind: str):
    """As not supported, with what to do; they are not broken."""
    data = bytearray(encode(scene()))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    with pytest.raises(UnsupportedImage, match=rf"This kind of JPEG \({kind}\) is not supported. Save it as"):
        preprocess(bytes(data), 64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"\0\0\0\x24ftypheic\0\0\0\0mif1heic",
            "HEIC photo.*an iPhone takes JPEG photos with Settings, Camera",
        ),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video.*Send one of its frames"),
        (b"%PDF-1.7", "a PDF document.*Send the photo itself"),
        (b"<svg xmlns=", "an SVG drawing.*Save it as PNG"),
        (b"II+\0\x08\0\0\0", "a BigTIFF"),
        (b"hello", "not an image of an accepted format"),
    ],
)
def test_names_what_it_does_not_read_and_what_to_do(data: bytes, words: str):
    """What people send instead of a photo."""
    with pytest.raises(UnsupportedImage, match=words):
        preprocess(data, 64)


def test_a_header_that_the_decoder_reads_otherwise_is_refused():
    """Two parsers must not disagree about the size that was checked."""
    data = encode(scene(64, 48), "GIF")
    with pytest.raises(BrokenImage):
        preprocess(hostile.png_with_chunks(encode(scene(), "PNG"), encode(scene(8, 8), "PNG")[8:33]), 64)
    assert preprocess(data, 64).width == 64


def test_memory_stays_below_the_estimate():
    """Measured as growth of this process, for the costliest kind of each format that the limits accept."""
    process = psutil.Process()
    for data in (
        camera(12, form="WEBP", method=0),
        camera(20, progressive=True, subsampling=0),
        camera(24, form="PNG"),
    ):
        estimate = structure(data).memory_bytes
        peak = _peak_of(process, data)
        assert peak < estimate + len(data) + 16e6, (peak, estimate)


def _peak_of(process: psutil.Process, data: bytes) -> float:
    """Growth of the resident memory while an image is decoded, in bytes."""
    import threading

    preprocess(encode(scene()), 224)
    before, peak, done = process.memory_info().rss, 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    preprocess(data, 224)
    done.set()
    watching.join()
    return peak


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_ends_anywhere_in_its_head_is_refused_with_words(form: str):
    """Whatever part of a number is missing."""
    data = encode(scene(64, 48), form)
    for length in range(1, min(len(data), 200)):
        with pytest.raises(ImageError):
            preprocess(data[:length], 64)
