"""Triton's own client, unchanged, speaks the Open Inference Protocol with the service."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.processes import Process
from tests.tiny import ROOT

pytestmark = pytest.mark.clients

CAT, DOG = ((ROOT / f"deploy/smoke/{name}.jpg").read_bytes() for name in ("cat", "dog"))
MODEL = "cats-dogs"


@pytest.fixture
def client(served: Process) -> Iterator[Any]:
    """Triton's client of the service."""
    with triton().InferenceServerClient(urlsplit(served.url).netloc) as made:
        yield made


def triton() -> Any:
    """The client's package; `make test` has none, and imports this file all the same."""
    import tritonclient.http

    return tritonclient.http


def photos(*encoded: bytes, binary: bool = True) -> Any:
    """The input tensor."""
    tensor = triton().InferInput("image", [len(encoded)], "BYTES")
    tensor.set_data_from_numpy(np.array(encoded, dtype=object), binary_data=binary)
    return tensor


def test_it_finds_the_server_and_the_model(client: Any):
    """By its health, its readiness and its metadata."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata(MODEL)
    assert client.is_model_ready(MODEL, model_version=described["versions"][0])
    assert [tensor["name"] for tensor in described["outputs"]] == [
        *("probabilities", "label", "uncertain", "unfamiliar")
    ]


def test_it_classifies_several_photos_and_reads_every_output(client: Any):
    """In binary, as it does by default."""
    result = client.infer(MODEL, [photos(CAT, DOG, CAT)], request_id="mine")
    assert result.as_numpy("label").tolist() == [b"cat", b"dog", b"cat"]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (3, 2)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert result.as_numpy("uncertain").tolist() == [False, False, False]
    assert result.as_numpy("unfamiliar").tolist() == [False, True, False]  # the drawn dog
    assert result.get_response()["id"] == "mine"


def test_it_reads_json_and_the_outputs_that_it_asks_for(client: Any):
    """One in JSON, one in binary, and no other."""
    asked = [
        triton().InferRequestedOutput("label", binary_data=False),
        triton().InferRequestedOutput("probabilities", binary_data=True),
    ]
    result = client.infer(MODEL, [photos(CAT, DOG)], outputs=asked)
    assert result.as_numpy("label").tolist() == ["cat", "dog"]
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 1]
    assert result.as_numpy("uncertain") is None


def test_it_says_why_a_photo_is_refused(client: Any):
    """Its exception carries the service's words and status."""
    with pytest.raises(
        triton().InferenceServerException, match="photo 2 of 2: The bytes are not an image"
    ) as refused:
        client.infer(MODEL, [photos(CAT, b"no photo")])
    assert refused.value.status() == "415"
    with pytest.raises(triton().InferenceServerException, match="There is no model 'another'"):
        client.infer("another", [photos(CAT)])
    with pytest.raises(triton().InferenceServerException, match="has the content coding 'gzip'"):
        client.infer(MODEL, [photos(CAT)], request_compression_algorithm="gzip")


def test_asynchronous_requests_are_answered_too(client: Any):
    """Several on their way at once."""
    waiting = [client.async_infer(MODEL, [photos(photo)]) for photo in (CAT, DOG) * 4]
    labels = [one.get_result().as_numpy("label").tolist() for one in waiting]
    assert labels == [[b"cat"], [b"dog"]] * 4


def test_the_documentation_s_example_works(served: Process, tmp_path: Path):
    """Typed as it stands, next to two photos."""
    for name, photo in (("cat.jpg", CAT), ("dog.jpg", DOG)):
        (tmp_path / name).write_bytes(photo)
    page = (ROOT / "docs/serve.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.+?)```", page, re.DOTALL) if "triton" in block)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("127.0.0.1:8000", urlsplit(served.url).netloc)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("[b'cat' b'dog'] [[9.99")
