"""One request of a batch, as a server hands it over, in; the encoded image out.

TorchServe names a raw body `body` and a field of a form as its sender does, turns JSON into objects and text
into strings, and leaves the rest as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final, NotRequired, TypedDict

from serving.contract.errors import ImageError, MissingImage, UnsupportedImage
from serving.contract.preprocess import DecodedImage
from serving.contract.structure.model import Structure

_NAMES: Final = ("body", "data", "file")
"""Of the field with the image, the first that is there."""
_MOST_SHOWN: Final = 100  # characters of a client's names in an error


class Item(TypedDict):
    """One request as this project's own callers hand it over."""

    body: bytes
    """The encoded image."""
    known: NotRequired[Structure | DecodedImage | ImageError]
    """What is known of it already: its structure, its pixels, or why it is refused."""


def encoded(item: object) -> bytes:
    """The encoded image of a request: bytes of any kind, or a string with their Base64.

    It is the value of the field `body`, `data` or `file`, or else of the only field there is. If that value
    is an object, such as a body in JSON, its fields count in the same way. A request that is no object is
    itself the image.

    Raises:
        MissingImage: there is no field, or several of other names.
        UnsupportedImage: the field holds neither bytes nor Base64.
    """
    if isinstance(item, dict) and type(body := item.get("body")) is bytes:
        return body
    value = item
    for _ in range(2):
        if isinstance(value, Mapping):
            value = _image_in(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return _from_base64(value)
    raise UnsupportedImage(
        f"The image came as a value of type {type(value).__name__}. Send bytes, or their Base64 as a string."
    )


def _image_in(fields: Mapping[object, object]) -> object:
    named = [fields[name] for name in _NAMES if name in fields]
    values = named or [*fields.values()]
    if not named and len(values) != 1:
        found = f"found {', '.join(map(str, fields))[:_MOST_SHOWN]!r}" if fields else "found none"
        raise MissingImage(
            f'There is neither a field "body", "data" or "file" nor a single other one ({found}). '
            "Send the image as the body of the request, or as one field of a form."
        )
    return values[0]


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # tools break it into lines
    except ValueError as error:
        raise UnsupportedImage(
            "The image came as a string that is not Base64. Send its bytes, or their Base64."
        ) from error
