"""JSON bodies that carry photos in base64, read without letting small values cost more memory than they take.

`serving.http.sinks` reads `{"instances": [{"b64": "…"}]}` with it, `serving.http.inference.tensors` the Open
Inference Protocol.
"""

from __future__ import annotations

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


def is_object(body: bytes) -> bool:
    """Whether a body can be a JSON object: no image format begins like one."""
    return body[:64].lstrip(b" \t\r\n").startswith(b"{")


def read(body: bytes, kind: type[T], most_photos: int) -> T:
    """Decode JSON.

    Each value is one object of a few dozen bytes, but may take only two bytes of JSON, and no value is begun
    without one of three characters, none of which occurs in base64: their number bounds the memory.

    Args:
        body: UTF-8.
        kind: What to decode it to.
        most_photos: The number of values allowed grows with it.

    Raises:
        TooManyValues: there are too many values.
        MalformedDocument: it is not JSON of that form.
    """
    if sum(map(body.count, _SEPARATORS)) > _VALUES_BESIDE + _VALUES_PER_PHOTO * most_photos:
        raise TooManyValues("there are too many values")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedDocument(str(error)) from error


def instances(body: bytes, most_photos: int) -> list[bytes]:
    """The photos of `{"instances": [{"b64": "…"}]}`, the JSON of TensorFlow Serving's predict API.

    Raises:
        TooManyValues: there are more than `most_photos`.
        MalformedDocument: as for `read`.
    """
    found = read(body, _Instances, most_photos).instances
    if len(found) > most_photos:
        raise TooManyValues(f"there are more than {most_photos} photos")
    return [instance.b64 for instance in found]
