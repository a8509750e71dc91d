"""The tensors of the Open Inference Protocol: a body in, encoded photos out; predictions in, a body out.

The protocol is version 2 of KServe's, https://github.com/kserve/open-inference-protocol, with the binary
tensors of Triton's extension. `serving.http.inference.routes` answers with it; nothing here knows a model or
HTTP.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from serving.contract.errors import ServingError
from serving.http import documents
from serving.http.classify import Prediction
from serving.http.sinks import TooManyPhotos

INPUT: Final = "image"
"""The tensor of photos, `BYTES[N]`: each element one encoded image."""
OUTPUTS: Final = {"probabilities": "FP32", "label": "BYTES", "uncertain": "BOOL", "unfamiliar": "BOOL"}
"""The tensors of answers, with their data types: `[N,K]` in the order of the labels, then `[N]`."""
MOST_ID_CHARACTERS: Final = 1000
"""The answer repeats the id, its caller may leave it unread for a minute, and no budget counts it."""
_LENGTH: Final = struct.Struct("<I")


class MalformedInference(ServingError):
    """The body is not a request of the protocol, or asks for what this service has not."""

    code = "malformed-inference"


class _Parameters(msgspec.Struct, frozen=True):
    """The parameters that are known, of a request, an input or an output."""

    binary_data_size: int | None = None
    """Bytes of an input after the JSON."""
    binary_data_output: bool = False
    """Send all outputs in binary, unless they say otherwise."""
    binary_data: bool | None = None
    """Send this output in binary."""
    classification: int = 0


_NONE: Final = _Parameters()
_Side = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""As the protocol has it; it takes long to write thousands of digits into an error."""


class _Input(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[_Side]
    parameters: _Parameters = _NONE
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: _Parameters = _NONE


class _Request(msgspec.Struct, frozen=True):
    inputs: list[_Input]
    id: Annotated[str, Meta(max_length=MOST_ID_CHARACTERS)] = ""
    parameters: _Parameters = _NONE
    outputs: list[_Output] = []


@dataclass(frozen=True, slots=True)
class Inference:
    """One request to infer."""

    id: str
    """The caller's id; empty if it gave none."""
    photos: list[bytes]
    """The encoded images, at least one."""
    outputs: dict[str, bool]
    """The tensors to send, in order, each with whether it is sent in binary; none means all of them."""
    binary: bool
    """Whether the tensors that are not named are sent in binary."""


def read(
    body: bytes | bytearray, json_bytes: int | None, most_photos: int, available: Sequence[str]
) -> Inference:
    """Parse a request.

    Args:
        body: JSON, and the binary tensors after it.
        json_bytes: How many bytes of the body are JSON, as the header Inference-Header-Content-Length has it;
            None for all of them.
        most_photos: How many photos one request may have.
        available: The outputs that the model has.

    Raises:
        MalformedInference: it is not a request that can be answered.
        TooManyPhotos: it has too many photos.
    """
    size = len(body) if json_bytes is None else json_bytes
    if size > len(body):
        raise MalformedInference(
            f"Inference-Header-Content-Length is {size}, but the body has {len(body)} bytes."
        )
    try:
        head = body if size == len(body) else body[:size]
        request = documents.read(head, _Request, most_photos)
    except documents.TooManyValues as error:
        raise _too_many(most_photos) from error
    except documents.MalformedDocument as error:
        raise MalformedInference(
            f"The JSON is not a request of the Open Inference Protocol: {str(error).rstrip('.')}. "
            'Send {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["…"]}]}, '
            "each photo in base64."
        ) from error
    photos = _photos(request, memoryview(body)[size:], most_photos)
    for output in request.outputs:
        if output.name not in available:
            raise MalformedInference(
                f"There is no output {output.name[:100]!r}. The outputs are {', '.join(available)}."
            )
        if output.parameters.classification:
            raise MalformedInference("The extension for classification is not supported. Ask for `label`.")
    everywhere = request.parameters.binary_data_output
    return Inference(
        request.id,
        photos,
        {
            output.name: everywhere
            if output.parameters.binary_data is None
            else output.parameters.binary_data
            for output in request.outputs
        },
        everywhere,
    )


def _photos(request: _Request, rest: memoryview, most_photos: int) -> list[bytes]:
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        found = ", ".join(tensor.name for tensor in request.inputs)[:100]
        raise MalformedInference(f"The model has one input, {INPUT!r}; the request has {found or 'none'!r}.")
    (tensor,) = request.inputs
    if tensor.datatype != "BYTES":
        raise MalformedInference(
            f"The data type of {INPUT!r} is BYTES, each element an encoded photo (JPEG, PNG, …), not "
            f"{tensor.datatype[:20]!r}."
        )
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or shape[0] < 1 or shape[1:] not in ([], [1]):
        found = str(shape)[:100]
        raise MalformedInference(f"The shape of {INPUT!r} is [N] or [N,1] with N at least 1, not {found}.")
    if shape[0] > most_photos:
        raise _too_many(most_photos)
    size = tensor.parameters.binary_data_size
    photos = _from_json(tensor.data, len(shape)) if size is None else _from_binary(rest, size, shape[0])
    if size is None and rest:
        raise MalformedInference(f"{len(rest)} bytes follow the JSON, but {INPUT!r} has no binary_data_size.")
    if len(photos) != math.prod(shape):
        raise MalformedInference(
            f"The shape of {INPUT!r} is {shape}, but the data has {len(photos)} elements."
        )
    return photos


def _from_json(data: msgspec.Raw, dimensions: int) -> list[bytes]:
    """Photos in base64, in a flat list or one nested as the shape says."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(data, type=list[bytes])
    with contextlib.suppress(msgspec.MsgspecError):
        if dimensions > 1:
            return [photo for (photo,) in msgspec.json.decode(data, type=list[tuple[bytes]])]
    raise MalformedInference(f"The data of {INPUT!r} is a list of strings, each an encoded photo in base64.")


def _from_binary(rest: memoryview, size: int, count: int) -> list[bytes]:
    """Elements that each come after their length, four bytes in little-endian order."""
    if size != len(rest):
        raise MalformedInference(f"binary_data_size is {size}, but {len(rest)} bytes follow the JSON.")
    photos: list[bytes] = []
    at = 0
    while at < len(rest) and len(photos) <= count:
        start = at + _LENGTH.size
        length = _LENGTH.unpack_from(rest, at)[0] if start <= len(rest) else 0
        at = start + length
        if at > len(rest):
            raise MalformedInference("The binary data ends within an element: each has its length before it.")
        photos.append(bytes(rest[start:at]))
    return photos


def _too_many(most_photos: int) -> TooManyPhotos:
    return TooManyPhotos(f"The request has more than {most_photos} photos. Send fewer.")


def write(
    head: dict[str, str], asked: Inference, available: Sequence[str], answers: Sequence[Prediction]
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many bytes of it are JSON if binary tensors follow.

    Args:
        head: `model_name`, `model_version` and `id`.
        asked: Which outputs, and in which form.
        available: The outputs that the model has.
        answers: One for each photo, with the probabilities of all labels.
    """
    outputs, tail = [], b""
    for name in asked.outputs or available:
        values = _values(name, answers)
        shape = [len(answers), len(values) // len(answers)] if name == "probabilities" else [len(answers)]
        output: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": shape}
        if asked.outputs.get(name, asked.binary):
            raw = _pack(OUTPUTS[name], values)
            output["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            output["data"] = values
        outputs.append(output)
    encoded = msgspec.json.encode({**head, "outputs": outputs})
    binary = any("parameters" in output for output in outputs)
    return encoded + tail, len(encoded) if binary else None


def _values(name: str, answers: Sequence[Prediction]) -> list[Any]:
    """The elements of an output, row by row."""
    if name == "probabilities":
        return [p for answer in answers for p in answer.probabilities.values()]
    return [getattr(answer, "prediction" if name == "label" else name) for answer in answers]


def _pack(datatype: str, values: list[Any]) -> bytes:
    """Elements in little-endian order; strings come after their length."""
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    return struct.pack(f"<{len(values)}{'f' if datatype == 'FP32' else '?'}", *values)
