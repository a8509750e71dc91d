"""Encoded bytes in, their `Structure` out, whatever their kind; `serving.contract.preprocess` calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PIL import features

from serving.contract.errors import UnsupportedImage
from serving.contract.structure import jpeg, others, png, tiff
from serving.contract.structure.model import Structure

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF") + (("AVIF",) if features.check("avif") else ())
_HEIF: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF: Final = (b"avif", b"avis")
_AS_JPEG: Final = "Save it as JPEG or PNG"
_OTHERS: Final = (
    (b"%PDF", "a PDF document", "Send the photo itself"),
    (b"8BPS", "a Photoshop document", _AS_JPEG),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image", _AS_JPEG),
    (b"\xff\x0a", "a JPEG XL image", _AS_JPEG),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image", _AS_JPEG),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image", _AS_JPEG),
    (b"\x00\x00\x01\x00", "an icon", _AS_JPEG),
    (b"II+\0", "a BigTIFF image", "Save it as an ordinary TIFF or as PNG"),
    (b"MM\0+", "a BigTIFF image", "Save it as an ordinary TIFF or as PNG"),
    (b"PK\x03\x04", "a zip archive", "Send each photo by itself"),
    (b"<svg", "an SVG drawing", "Save it as PNG"),
    (b"<?xml", "an XML document, perhaps an SVG drawing", "Save it as PNG"),
    (b"<!DOCTYPE", "a web page", "Send the photo itself"),
    (b"<html", "a web page", "Send the photo itself"),
    (b"\x1a\x45\xdf\xa3", "a video", "Send one of its frames as JPEG or PNG"),
)
_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (png.SIGNATURE, "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
)
_READERS: Final[dict[str, Callable[[bytes], Structure]]] = {
    "PNG": png.read,
    "WEBP": others.read_webp,
    "GIF": others.read_gif,
    "BMP": others.read_bmp,
    "TIFF": tiff.read,
    "AVIF": others.read_avif,
}


def structure_of(data: bytes, size: int, enough_seconds: float) -> Structure:
    """The structure of an image.

    Args:
        data: The file.
        size: The width and height, in pixels, that it is to have in the end.
        enough_seconds: Once it takes longer, more need not be known.

    Raises:
        UnsupportedImage: the bytes are not an image of an accepted format; the text says what they seem to
            be, and what to do.
        BrokenImage: they begin like one, but their structure cannot be read.
    """
    kind = format_of(data)
    if kind == "JPEG":
        return jpeg.read(data, size, enough_seconds)
    if kind not in FORMATS:
        raise UnsupportedImage(_advice(data))
    return _READERS[kind](data)


def format_of(data: bytes) -> str:
    """The format by its signature; empty if it is none of ours."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and _is_avif(data):
        return "AVIF"
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), "")


def _is_avif(data: bytes) -> bool:
    """Whether the main brand is AVIF's, or one of images in general with AVIF among the compatible ones."""
    main = data[8:12]
    end = min(int.from_bytes(data[:4]), 256)
    brands = [data[at : at + 4] for at in range(16, end, 4)]
    return main in _AVIF or (main in _HEIF and any(brand in _AVIF for brand in brands))


def _advice(data: bytes) -> str:
    accepted = f"Accepted are {', '.join(FORMATS)}."
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return (
            "This is a HEIC photo, which is not supported. Send it as JPEG; an iPhone takes JPEG photos with "
            f"Settings, Camera, Formats, Most Compatible. {accepted}"
        )
    if data[4:8] == b"ftyp":
        return f"This is a video, which is not supported. Send one of its frames as JPEG or PNG. {accepted}"
    for signature, name, advice in _OTHERS:
        if data.startswith(signature):
            return f"This is {name}, which is not supported. {advice}. {accepted}"
    return f"The bytes are not an image of an accepted format ({', '.join(FORMATS)})."
