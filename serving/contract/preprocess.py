"""Encoded bytes in, `u8[3,S,S]` out: the one preprocessing of training, evaluation and serving.

The content alone determines the format, which must be on the allowlist. Bytes, pixels, sides, and the memory
and time of decoding are capped before a pixel is decoded (`serving.contract.structure`). A JPEG is decoded at
1/2, 1/4 or 1/8 of its scale (by the decoder's own DCT scaling) if that still covers the target, so a
12-megapixel photo does not cost a 12-megapixel decode. A large image in another format is first reduced by
block averages.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from serving.contract.errors import BrokenImage, EmptyImage, ImageError, ImageTooLarge, UnsupportedImage
from serving.contract.structure.model import STRIP_PIXELS, Structure, orientation_in_xmp, orientation_of
from serving.contract.structure.sniff import structure_of

RESIZE_RULE: Final = "stretch-bilinear"
_BACKGROUND: Final = (255, 255, 255)
_SIXTEEN_TO_EIGHT_BITS: Final = 257  # 65535 / 255
_EXIF_ORIENTATION: Final = 0x0112
_SHARPNESS: Final = 2  # block averages stop at this multiple of the target: no visible loss

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one photo per core
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
    max_decode_bytes: int = 224 * 1024 * 1024
    """Memory that decoding takes beyond the encoded bytes, by `structure_of`."""
    max_decode_seconds: float = 1.5
    """Time that decoding takes on one core, by `structure_of`."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One preprocessed image, with its original format and size."""

    pixels: npt.NDArray[np.uint8]
    """`u8[3,S,S]`, 0..255, RGB."""
    format: str
    """Name of the detected format; a phone's MPO is a JPEG with more pictures behind it."""
    width: int
    """Width in pixels as displayed (after EXIF orientation)."""
    height: int
    """Height in pixels as displayed (after EXIF orientation)."""


def preprocess(
    data: bytes, size: int, limits: Limits = Limits(), structure: Structure | None = None
) -> DecodedImage:
    """Decode one image to `u8[3,size,size]`, 0..255, RGB, whatever its format and colour mode.

    The whole image is stretched to the square (rule `RESIZE_RULE`), transparency becomes white, 16-bit
    samples are scaled to 8 bits, and EXIF orientation is applied. Only the first frame of an animation
    counts. ICC profiles are not applied.

    Args:
        data: The encoded image.
        size: Side of the square, in pixels.
        limits: The limits beyond which it is refused.
        structure: What `inspect` returned for it, if it has been called.

    Raises:
        EmptyImage: there are no bytes.
        ImageTooLarge: the image exceeds one of `limits`.
        UnsupportedImage: the bytes are not an image, or not of an allowed format or pixel type.
        BrokenImage: the format is allowed, but the pixels cannot be decoded (truncated, corrupt).
    """
    structure = structure or inspect(data, size, limits)
    try:
        with Image.open(io.BytesIO(structure.essential), formats=(structure.format,)) as image:
            if {*image.size} != {structure.width, structure.height}:  # Pillow gives that of a TIFF turned
                raise ValueError(f"{image.size} is not {structure.width}x{structure.height}")  # noqa: TRY301
            _reduce_key(image)
            orientation = _orientation(image, structure)
            square = _to_square_rgb(image, size, orientation)
            width, height = image.size if image.format == "TIFF" else (structure.width, structure.height)
    except UnsupportedImage:
        raise
    except Exception as error:  # a decoder may raise anything on malicious bytes
        raise BrokenImage(
            f"The {structure.format} image cannot be decoded: it is truncated or corrupt."
        ) from error
    if orientation >= 5:  # 5 to 8 swap the axes
        width, height = height, width
    pixels = np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))  # [3,S,S]
    return DecodedImage(pixels=pixels, format=structure.format, width=width, height=height)


def inspect(data: bytes, size: int, limits: Limits) -> Structure:
    """The structure of an image, if it is within the limits; nothing is decoded.

    Raises:
        ImageError: as for `preprocess`.
    """
    if not data:
        raise EmptyImage("The image is empty (0 bytes).")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"The image has {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    try:
        structure = structure_of(data, size, limits.max_decode_seconds)
    except ImageError:
        raise
    except Exception as error:  # a parser may raise anything on malicious bytes
        raise BrokenImage("The image's header is truncated or corrupt.") from error
    _check_size((structure.width, structure.height), limits)
    _check_cost(structure, limits)
    return structure


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


def _check_cost(structure: Structure, limits: Limits) -> None:
    size = f"The {structure.format} image has {structure.width}x{structure.height} pixels"
    what = f"{size}, and {structure.detail}" if structure.detail else size
    advice = "Send a smaller one, or save it as an ordinary JPEG."
    if structure.memory_bytes > limits.max_decode_bytes:
        raise ImageTooLarge(
            f"{what}: decoding it takes up to {structure.memory_bytes / 1e6:.0f} MB of memory; at most "
            f"{limits.max_decode_bytes / 1e6:.0f} MB are accepted. {advice}"
        )
    if structure.seconds > limits.max_decode_seconds:
        raise ImageTooLarge(
            f"{what}: decoding it takes up to {structure.seconds:.1f} s; at most "
            f"{limits.max_decode_seconds:g} s are accepted. {advice}"
        )


def _to_square_rgb(image: Image.Image, size: int, orientation: int) -> Image.Image:
    """Decode, convert to RGB, resize to a square and rotate upright (cheapest in this order)."""
    if image.format == "JPEG":
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


def _orientation(image: Image.Image, structure: Structure) -> int:
    """The orientation that remains to be applied: WebP and AVIF have it in parts that Pillow reads."""
    if structure.format not in ("WEBP", "AVIF"):
        return structure.orientation
    exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    found = orientation_of(exif)
    return found if found != 1 else orientation_in_xmp(xmp)


def _reduce_key(image: ImageFile.ImageFile) -> None:
    """Give the transparent colour of a PNG the 8 bits to which Pillow reduces its 16 bits of colour."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and image.tile and "16" in str(image.tile[0].args):
        image.info["transparency"] = tuple(value >> 8 for value in key)


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
    strip = rows * max(1, STRIP_PIXELS // (width * rows))
    for top in range(0, height, strip):
        part = image.crop((0, top, width, min(top + strip, height)))
        shrunk.paste(_to_rgb(part).reduce((columns, rows)), (0, top // rows))
    return shrunk, width / columns, height / rows


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode.startswith("I;16"):  # greyscale
        return _from_sixteen_bits(image)
    if mode in ("F", "I"):
        kind = "floating-point" if mode == "F" else "32-bit"
        raise UnsupportedImage(
            f"The image has {kind} samples; 8 or 16 bits are accepted. Save it with 8 bits a sample."
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits as RGB; one of its values may stand for transparent (PNG, tRNS)."""
    samples = np.asarray(image)
    eight_bits = (samples // _SIXTEEN_TO_EIGHT_BITS).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        eight_bits[samples == key] = 255
    return Image.fromarray(eight_bits).convert("RGB")
