"""JSON bodies that carry photos in base64, read without letting small values cost more memory than they take.

`serving.http.sinks` reads `{"instances": [{"b64": "…"}]}` with it, `serving.http.inference.tensors` the Open
Inference Protocol.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")
_VALUES_PER_PHOTO: Final = 16
_VALUES_BESIDE: Final = 256
_SEPARATORS: Final = (b",", b"[", b"{")


class MalformedDocument(ValueError):
    """The body is not JSON, or not of the expected form; the text says where."""


class TooManyValues(MalformedDocument):
    """There are more values, or more photos, than the request may have."""


class _Instance(msgspec.Struct, frozen=True):
    """One photo."""

    b64: bytes
    """The encoded image; base64 in JSON."""


class _Instances(msgspec.Struct, frozen=True):
    instances: list[_Instance]


def is_json(body: bytes | bytearray) -> bool:
    """Whether a body can be JSON: no image format begins like an object or a list, with a BOM or without."""
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))


def read(body: bytes | bytearray, kind: type[T], most_photos: int) -> T:
    """Decode JSON.

    Each value is one object of a few dozen bytes, but may take only two bytes of JSON, and no value is begun
    without one of three characters, none of which occurs in base64: their number bounds the memory. They are
    found by `find`, which is seven times as fast as `count`, and nothing else is answered meanwhile.

    Args:
        body: UTF-8.
        kind: What to decode it to.
        most_photos: The number of values allowed grows with it.

    Raises:
        TooManyValues: there are too many values.
        MalformedDocument: it is not JSON of that form.
    """
    most_values = _VALUES_BESIDE + _VALUES_PER_PHOTO * most_photos
    if sum(1 for _ in itertools.islice(_separators(body), most_values + 1)) > most_values:
        raise TooManyValues("there are too many values")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedDocument(str(error)) from error


def _separators(body: bytes | bytearray) -> Iterator[int]:
    """Where each of the characters is before which, or after which, a value begins."""
    for separator in _SEPARATORS:
        at = -1
        while (at := body.find(separator, at + 1)) >= 0:
            yield at


def instances(body: bytes | bytearray, most_photos: int) -> list[bytes]:
    """The photos of `{"instances": [{"b64": "…"}]}`, the JSON of TensorFlow Serving's predict API.

    Raises:
        TooManyValues: there are more than `most_photos`.
        MalformedDocument: as for `read`.
    """
    found = read(body, _Instances, most_photos).instances
    if len(found) > most_photos:
        raise TooManyValues(f"there are more than {most_photos} photos")
    return [instance.b64 for instance in found]
