"""What the Open Inference Protocol answers, as records, and the OpenAPI description of what it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

from serving.http.inference import tensors


class InferenceError(msgspec.Struct, frozen=True):
    """The body of an error of the protocol."""

    error: str


class ServerMetadata(msgspec.Struct, frozen=True):
    """The answer to `GET /v2`."""

    name: str
    version: str
    extensions: list[str]


class Tensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input or an output of a model."""

    name: str
    datatype: str
    shape: list[int]
    """Sides; -1 is any number of photos."""
    parameters: dict[str, list[str]] = {}
    """`labels`: names of the columns of `probabilities`."""


class ModelMetadata(msgspec.Struct, frozen=True):
    """The answer to `GET /v2/models/{name}`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Live(msgspec.Struct, frozen=True):
    """The answer to `GET /v2/health/live`."""

    live: bool


class Ready(msgspec.Struct, frozen=True):
    """The answer to `GET /v2/health/ready`."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    """The answer to `GET /v2/models/{name}/ready`."""

    name: str
    ready: bool


@dataclass
class InferOperation(Operation):
    """The OpenAPI description of an inference request, which is read by `serving.http.tensors`."""

    def __post_init__(self) -> None:
        """Describe the JSON; in binary form, tensors follow it."""
        text, integer = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.INTEGER)
        photo = Schema(type=OpenAPIType.STRING, content_encoding="base64", description="The encoded image.")
        tensor = Schema(
            type=OpenAPIType.OBJECT,
            required=["name", "datatype", "shape"],
            properties={
                "name": Schema(type=OpenAPIType.STRING, enum=[tensors.INPUT]),
                "datatype": Schema(type=OpenAPIType.STRING, enum=["BYTES"]),
                "shape": Schema(type=OpenAPIType.ARRAY, items=integer),
                "data": Schema(type=OpenAPIType.ARRAY, items=photo),
            },
        )
        output = Schema(type=OpenAPIType.OBJECT, required=["name"], properties={"name": text})
        body = Schema(
            type=OpenAPIType.OBJECT,
            required=["inputs"],
            properties={
                "id": Schema(type=OpenAPIType.STRING, max_length=tensors.MOST_ID_CHARACTERS),
                "inputs": Schema(type=OpenAPIType.ARRAY, items=tensor),
                "outputs": Schema(type=OpenAPIType.ARRAY, items=output),
            },
        )
        self.request_body = RequestBody(
            required=True, content={"application/json": OpenAPIMediaType(schema=body)}
        )


class InferredTensor(msgspec.Struct, frozen=True):
    """An output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class InferenceResponse(msgspec.Struct, frozen=True):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    id: str
    outputs: list[InferredTensor]
