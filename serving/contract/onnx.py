"""The bytes of an ONNX artefact: a graph, then card and probe as metadata, then a seal over both.

A protobuf message may be continued by appending fields, so that every ONNX tool reads the whole file as one
model. ONNX has no checksum; the seal is one more metadata entry, the last, with the graph's length and the
SHA-256 of all bytes before it. Reading needs neither onnx nor onnxruntime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

_METADATA: Final = b"\x72"  # ModelProto.metadata_props, field 14, by length
_KEY: Final = b"\x0a"  # StringStringEntryProto.key, field 1
_VALUE: Final = b"\x12"  # StringStringEntryProto.value, field 2
_SEAL: Final = "seal"
_DIGITS: Final = 12
"""Of the graph's length in the seal."""


def join(graph: bytes, members: Mapping[str, bytes]) -> bytes:
    """The file's bytes: the graph, the members as UTF-8 metadata, and the seal."""
    content = graph + b"".join(_entry(name, value) for name, value in members.items())
    return content + _seal(content, len(graph))


def split(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The graph, and the members by name.

    Raises:
        ValueError: the bytes are not what `join` wrote.
    """
    content, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    digits = seal[-_SEAL_VALUE_BYTES:][:_DIGITS]
    length = int(digits) if digits.isdigit() else -1
    if length < 0 or seal != _seal(content, length):
        raise ValueError("The seal does not match.")
    members, at = {}, length
    while at < len(content):
        _, at = _length(content, at + 1)  # of the entry
        name, at = _content(content, at)
        value, at = _content(content, at)
        members[name.decode()] = value
    return data[:length], members


def _seal(content: bytes, graph_bytes: int) -> bytes:
    return _entry(_SEAL, f"{graph_bytes:0{_DIGITS}d}{hashlib.sha256(content).hexdigest()}".encode())


def _entry(name: str, value: bytes) -> bytes:
    return _field(_METADATA, _field(_KEY, name.encode()) + _field(_VALUE, value))


def _field(tag: bytes, content: bytes) -> bytes:
    number, length = len(content), bytearray()
    while number > 0x7F:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    return tag + bytes([*length, number]) + content


def _content(data: bytes, at: int) -> tuple[bytes, int]:
    """The content of the field at a position, and where it ends."""
    length, start = _length(data, at + 1)
    return data[start : start + length], start + length


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The number at a position, in base 128 with the lowest digit first, and where it ends."""
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


_SEAL_BYTES: Final = len(_seal(b"", 0))
_SEAL_VALUE_BYTES: Final = _DIGITS + 2 * hashlib.sha256().digest_size
