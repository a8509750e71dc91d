"""Any bytes in: pixels, or an error that names the cause."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.contract.errors import BrokenImage, EmptyImage, ImageError, ImageTooLarge, UnsupportedImage
from serving.contract.preprocess import Limits, preprocess
from serving.contract.structure.sniff import FORMATS
from tests.pictures import encode, scene, turned

SIDE = 32
CORNERS = {(2, 2): (255, 0, 0), (2, -3): (0, 255, 0), (-3, 2): (0, 0, 255), (-3, -3): (255, 255, 255)}


def off_corners(pixels: np.ndarray) -> float:
    """Largest difference of a corner from the colour that `scene` has there."""
    return max(float(np.abs(pixels[:, y, x].astype(int) - c).max()) for (y, x), c in CORNERS.items())


@pytest.mark.parametrize("form", FORMATS)
def test_every_allowed_format_gives_the_picture(form: str):
    """The four corners are where and what they were, within lossy compression."""
    image = preprocess(encode(scene(), form), SIDE)
    assert image.pixels.shape == (3, SIDE, SIDE)
    assert image.pixels.dtype == np.uint8
    assert (image.format, image.width, image.height) == (form, 120, 80)
    assert off_corners(image.pixels) < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int):
    """All eight orientations show the same upright picture, with its displayed size."""
    image = preprocess(turned(orientation), SIDE)
    assert off_corners(image.pixels) < 60
    assert (image.width, image.height) == (120, 80)


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_impossible_orientation_means_upright(value: int):
    """A wrong EXIF value is no reason to refuse the pixels."""
    exif = Image.Exif()
    exif[0x0112] = value
    assert off_corners(preprocess(encode(scene(), exif=exif, quality=95), SIDE).pixels) < 60


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode: str):
    """The mean over the picture stays, whatever the mode that carried it."""
    form = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    grey = scene().convert("L").convert("RGB")
    source = grey if mode in ("L", "1", "LA") else scene()
    image = preprocess(encode(source.convert(mode), form), SIDE)
    expected = preprocess(encode(source, "PNG"), SIDE)
    assert np.abs(image.pixels.mean((1, 2)) - expected.pixels.mean((1, 2))).max() < 8


def test_transparency_becomes_white():
    """An invisible picture is white, whatever colour hides below."""
    clear = scene().convert("RGBA")
    clear.putalpha(0)
    assert preprocess(encode(clear, "PNG"), SIDE).pixels.min() == 255


def test_sixteen_bits_become_eight():
    """65535 is 255 and 32896 is 128: the range is scaled, not clipped."""
    levels = np.repeat(np.array([[0, 32896, 65535]], np.uint16), 3, axis=0)
    image = preprocess(encode(Image.fromarray(levels), "PNG"), 3)
    assert image.pixels[:, 1, :].tolist() == [[0, 128, 255]] * 3


def test_floating_point_samples_are_refused():
    """An undeclared range cannot be scaled."""
    with pytest.raises(UnsupportedImage, match="floating-point"):
        preprocess(encode(Image.new("F", (8, 8)), "TIFF"), SIDE)


def test_the_first_frame_of_an_animation_counts():
    """Red first, then blue: red."""
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert preprocess(data, SIDE).pixels[:, 5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_a_large_image_shrunk_in_strips_looks_the_same(mode: str):
    """With sides that no block divides, in several strips: as if converted and resized in one piece."""
    grey = mode in ("L", "LA", "I;16")
    picture = scene(2003, 1501).convert("L" if grey else "RGB")
    whole = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    else:
        image = picture.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(128)
        whole = (whole.astype(int) * 128 + 255 * 127) // 255
    form = "TIFF" if mode == "CMYK" else "PNG"
    pixels = preprocess(encode(image, form), SIDE).pixels.transpose(1, 2, 0)
    difference = np.abs(pixels.astype(int) - whole.astype(int))
    assert difference.mean() < (6 if mode == "P" else 1), "a palette has few colours"


def test_a_large_jpeg_is_decoded_at_reduced_scale_and_looks_the_same():
    """The short cut changes no pixel by more than resizing does."""
    data = encode(scene(2400, 1800), quality=95)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    image = preprocess(data, SIDE)
    assert (image.width, image.height) == (2400, 1800)
    assert np.abs(image.pixels.transpose(1, 2, 0).astype(int) - full).mean() < 3


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyImage),
        (b"GIF8", BrokenImage),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedImage),
        (b"%PDF-1.7\n", UnsupportedImage),
        (b"PK\3\4" + bytes(100), UnsupportedImage),
        (bytes(1000), UnsupportedImage),
        (encode(scene(), "PPM"), UnsupportedImage),
        (encode(scene(), "ICO"), UnsupportedImage),
        (encode(scene())[:200], BrokenImage),
        (encode(scene(), "PNG")[:-30], BrokenImage),
        (encode(scene(), "WEBP")[:100], BrokenImage),
    ],
    ids=["empty", "gif-head", "svg", "pdf", "zip", "zeros", "ppm", "ico", "jpeg-cut", "png-cut", "webp-cut"],
)
def test_bytes_that_are_no_complete_allowed_image_are_refused(data: bytes, error: type[ImageError]):
    """Each fault has its own error, because each leads to a different answer."""
    with pytest.raises(error):
        preprocess(data, SIDE)


def test_truncation_is_found_wherever_it_falls():
    """A photo cut in the middle of its pixels is refused, not filled with grey."""
    data = encode(scene(400, 300), quality=90)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(BrokenImage):
            preprocess(data[: int(len(data) * share)], SIDE)


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        (Limits(max_bytes=100), "bytes"),
        (Limits(max_pixels=9599), "pixels"),
        (Limits(max_side=119), "side"),
    ],
)
def test_caps_are_inclusive_and_named(limits: Limits, names: str):
    """One above the cap is refused, the cap itself is not."""
    data = encode(scene(120, 80))
    with pytest.raises(ImageTooLarge, match=names):
        preprocess(data, SIDE, limits)
    preprocess(data, SIDE, Limits(len(data), 9600, 120))


def test_a_declared_giant_is_refused_before_decoding():
    """A PNG of a few bytes that declares 60,000 x 60,000 pixels costs nothing."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))):
        data += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    with pytest.raises(ImageTooLarge, match="pixels"):
        preprocess(data, SIDE)


def shape_or_refusal(data: bytes) -> None:
    """Fail unless the bytes give a square, or are refused with a reason."""
    try:
        outcome = preprocess(data, SIDE).pixels.shape
    except ImageError as error:
        outcome = error.detail
    assert outcome == (3, SIDE, SIDE) or (outcome and isinstance(outcome, str))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", *(encode(scene(24, 16), f)[:40] for f in FORMATS)]))
def test_any_bytes_give_pixels_or_an_image_error(tail: bytes, head: bytes):
    """Nothing else comes out, whatever follows a genuine beginning."""
    shape_or_refusal(head + tail)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_images_give_pixels_or_an_image_error(data: st.DataObject):
    """Bytes changed anywhere in a genuine image."""
    image = bytearray(data.draw(st.sampled_from([encode(scene(24, 16), form) for form in FORMATS])))
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    shape_or_refusal(bytes(image))


def test_threads_do_not_disturb_each_other():
    """The same answers from eight threads at once as from one."""
    photos = [encode(scene(100 + 10 * i, 80), form) for i, form in enumerate(FORMATS)] * 8
    alone = [preprocess(photo, SIDE).pixels for photo in photos]
    start = threading.Barrier(8)

    def work(_: int) -> list[np.ndarray]:
        start.wait()
        return [preprocess(photo, SIDE).pixels for photo in photos]

    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(work, range(8)):
            assert all(np.array_equal(a, b) for a, b in zip(alone, result, strict=True))
