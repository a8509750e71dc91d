"""Encoded bytes in, `u8[3,S,S]` out: the one preprocessing of training, evaluation and serving.

The content alone determines the format, which must be on the allowlist. Bytes, pixels and sides are capped
before a pixel is decoded. A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale (by the decoder's own DCT
scaling) if that still covers the target, so a 12-megapixel photo does not cost a 12-megapixel decode. A large
image in another format is first reduced by block averages.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError, features

from serving.contract.errors import BrokenImage, EmptyImage, ImageTooLarge, UnsupportedImage

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF") + (("AVIF",) if features.check("avif") else ())
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
RESIZE_RULE: Final = "stretch-bilinear"
_BACKGROUND: Final = (255, 255, 255)
_SIXTEEN_TO_EIGHT_BITS: Final = 257  # 65535 / 255
_EXIF_ORIENTATION: Final = 0x0112
_SHARPNESS: Final = 2  # block averages stop at this multiple of the target: no visible loss
_STRIP_PIXELS: Final = 1 << 20

Image.init()  # registers every decoder now, not at the first image of its kind
# Pillow warns about harmless metadata errors; a filter set per call would race between threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `Limits` decides


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits beyond which an image is refused."""

    max_bytes: int = 20 * 1024 * 1024
    """Encoded size, in bytes."""
    max_pixels: int = 64_000_000
    """Width times height, as the file declares them."""
    max_side: int = 16_384
    """Longest side, in pixels."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One preprocessed image, with its original format and size."""

    pixels: npt.NDArray[np.uint8]
    """`u8[3,S,S]`, 0..255, RGB."""
    format: str
    """Name of the detected format, one of `FORMATS`."""
    width: int
    """Width in pixels as displayed (after EXIF orientation)."""
    height: int
    """Height in pixels as displayed (after EXIF orientation)."""


def preprocess(data: bytes, size: int, limits: Limits = Limits()) -> DecodedImage:
    """Decode one image to `u8[3,size,size]`, 0..255, RGB, whatever its format and colour mode.

    The whole image is stretched to the square (rule `RESIZE_RULE`), transparency becomes white, 16-bit
    samples are scaled to 8 bits, and EXIF orientation is applied. Only the first frame of an animation
    counts. ICC profiles are not applied.

    Raises:
        EmptyImage: there are no bytes.
        ImageTooLarge: the image exceeds one of `limits`.
        UnsupportedImage: the bytes are not an image, or not of an allowed format or pixel type.
        BrokenImage: the format is allowed, but the pixels cannot be decoded (truncated, corrupt).
    """
    if not data:
        raise EmptyImage("The image is empty (0 bytes).")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"The image has {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    image = _open(data)
    with image:
        _check_size(image.size, limits)
        image_format = image.format or "unknown"
        try:
            width, height = image.size
            orientation = _orientation(image)
            square = _to_square_rgb(image, size, orientation)
        except UnsupportedImage:
            raise
        except Exception as error:  # a decoder may raise anything on malicious bytes
            raise BrokenImage(
                f"The {image_format} image cannot be decoded: it is truncated or corrupt."
            ) from error
    if orientation >= 5:  # 5 to 8 swap the axes
        width, height = height, width
    pixels = np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))  # [3,S,S]
    return DecodedImage(pixels=pixels, format=image_format, width=width, height=height)


def _open(data: bytes) -> Image.Image:
    """Read the header. `formats` is the allowlist: no other decoder sees the bytes."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge("The image declares more pixels than any decoder accepts.") from error
    except Exception as error:
        if isinstance(error, UnidentifiedImageError) and not _has_signature(data):
            raise UnsupportedImage(
                f"The bytes are not an image of an accepted format ({', '.join(FORMATS)})."
            ) from error
        raise BrokenImage("The image's header is truncated or corrupt.") from error


def _has_signature(data: bytes) -> bool:
    """Whether the bytes start like an accepted format; if so, what follows is broken."""
    riff, isobmff = data[:4] == b"RIFF" and data[8:12] == b"WEBP", data[4:12] == b"ftypavif"
    return data.startswith(_SIGNATURES) or riff or isobmff


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BrokenImage(f"The image declares a size of {width}x{height} pixels.")
    if max(size) > limits.max_side:
        raise ImageTooLarge(
            f"The image is {width}x{height} pixels; a side may have at most {limits.max_side}."
        )
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"The image is {width}x{height} = {width * height} pixels; "
            f"at most {limits.max_pixels} are accepted."
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a damaged or absent EXIF block means 1, upright."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (damaged EXIF does not mean damaged pixels)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_square_rgb(image: Image.Image, size: int, orientation: int) -> Image.Image:
    """Decode, convert to RGB, resize to a square and rotate upright (cheapest in this order)."""
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (size, size))  # picks the smallest DCT scale that is not below the target
    image.load()
    rgb, width, height = _shrink(image, size)
    square = rgb.resize((size, size), Image.Resampling.BILINEAR, box=(0, 0, width, height))
    if orientation != 1:
        upright = Image.Exif()
        upright[_EXIF_ORIENTATION] = orientation
        square.info["exif"] = upright.tobytes()
        square = ImageOps.exif_transpose(square)
    return square


def _shrink(image: Image.Image, size: int) -> tuple[Image.Image, float, float]:
    """Convert to RGB; average blocks of pixels as long as at least twice the target remains.

    It works in strips, so it needs only a few megabytes on top of the decoded image; converting 64 megapixels
    in one piece took several hundred.

    Returns:
        The image, and the width and height, in its pixels, that the original covers (the last block may be
        partial).
    """
    width, height = image.size
    columns, rows = (max(1, side // (_SHARPNESS * size)) for side in image.size)
    if (columns, rows) == (1, 1):
        return _to_rgb(image), width, height
    shrunk = Image.new("RGB", (math.ceil(width / columns), math.ceil(height / rows)))
    strip = rows * max(1, _STRIP_PIXELS // (width * rows))
    for top in range(0, height, strip):
        part = image.crop((0, top, width, min(top + strip, height)))
        shrunk.paste(_to_rgb(part).reduce((columns, rows)), (0, top // rows))
    return shrunk, width / columns, height / rows


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I"):  # 16-bit greyscale: "I;16", "I;16B", "I"
        samples = np.asarray(image).astype(np.int64)
        eight_bits = np.clip(samples // _SIXTEEN_TO_EIGHT_BITS, 0, 255).astype(np.uint8)
        return Image.fromarray(eight_bits).convert("RGB")
    if mode == "F":
        raise UnsupportedImage("The image has floating-point samples; 8 or 16 bits are accepted.")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")
