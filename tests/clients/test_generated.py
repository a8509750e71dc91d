"""A client that openapi-python-client generates of the OpenAPI document works as it is."""

from __future__ import annotations

import base64
import importlib
import io
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import Process
from tests.tiny import ROOT

pytestmark = pytest.mark.clients

CAT, DOG = ((ROOT / f"deploy/smoke/{name}.jpg").read_bytes() for name in ("cat", "dog"))
BIN = Path(sys.executable).parent
Part = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def part(served: Process, tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Imports a module of the generated package."""
    folder = tmp_path_factory.mktemp("generated")
    document, config = folder / "openapi.json", folder / "config.yaml"
    with urllib.request.urlopen(served.url + "/schema/openapi.json") as reply:  # noqa: S310 (our own)
        document.write_bytes(reply.read())
    kinds = ("image/png", "'image/*'", "application/zip")
    overrides = ", ".join(f"{kind}: application/octet-stream" for kind in kinds)
    config.write_text(f"content_type_overrides: {{{overrides}}}\n")
    done = subprocess.run(
        [BIN / "openapi-python-client", "generate", "--path", document, "--config", config,
         "--meta", "none", "--output-path", folder / "generated_client"],
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout, done.stdout
    sys.path.insert(0, str(folder))
    return lambda name: importlib.import_module(f"generated_client{name}")


@pytest.fixture
def client(part: Part, served: Process) -> Iterator[Any]:
    """The generated client of the service."""
    with part("").Client(base_url=served.url) as made:
        yield made


def test_it_classifies_a_photo(part: Part, client: Any):
    """As a form and as plain bytes; the answer has its own type."""
    models, types, predict = part(".models"), part(".types"), part(".api.default.predict")
    form = models.PredictFilesBody(file=types.File(io.BytesIO(CAT), "cat.jpg", "image/jpeg"))
    for body in (form, types.File(io.BytesIO(CAT))):
        answer = predict.sync(client=client, body=body)
        assert isinstance(answer, models.Prediction)
        assert answer.prediction == "cat"
        assert answer.probabilities.additional_properties["cat"] == answer.probability
    one = predict.sync(client=client, body=form, top=1)
    assert list(one.probabilities.additional_properties) == ["cat"]


def test_it_classifies_several_photos(part: Part, client: Any):
    """Each has an answer or a problem of its own, by type."""
    models = part(".models")
    body = models.PredictJsonBody.from_dict(
        {"instances": [{"b64": base64.b64encode(photo).decode()} for photo in (CAT, b"no photo", DOG)]}
    )
    answer = part(".api.default.predict").sync(client=client, body=body)
    assert isinstance(answer, models.Predictions)
    first, second, third = answer.predictions
    assert (first.prediction, third.prediction) == ("cat", "dog")
    assert isinstance(second, models.Problem)
    assert second.status == 415


def test_it_reads_a_problem_as_one(part: Part, client: Any):
    """With the status, the kind and the words."""
    types = part(".types")
    reply = part(".api.default.predict").sync_detailed(
        client=client, body=types.File(io.BytesIO(b"no photo"))
    )
    assert (reply.status_code, reply.parsed.type_) == (415, "/problems/unsupported-image")
    assert reply.parsed.detail.startswith("The bytes are not an image")


def test_it_speaks_the_open_inference_protocol(part: Part, client: Any):
    """With base64 in JSON."""
    models = part(".models")
    photo = base64.b64encode(DOG).decode()
    body = models.InferBody.from_dict(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [photo]}]}
    )
    answer = part(".api.default.infer").sync("cats-dogs", client=client, body=body)
    found = {output.name: output.data for output in answer.outputs}
    assert found["label"] == ["dog"]
    metadata = part(".api.default.get_model_metadata").sync("cats-dogs", client=client)
    assert [tensor.name for tensor in metadata.inputs] == ["image"]


def test_it_asks_for_health_metrics_and_a_heat_map(part: Part, client: Any):
    """Every kind of answer that the service has."""
    assert part(".api.default.get_health").sync(client=client).status == "ok"
    counts = part(".api.default.get_metrics").sync_detailed(client=client)
    assert counts.status_code == 200
    form = part(".models").ExplainBody(file=part(".types").File(io.BytesIO(CAT), "cat.jpg"))
    heat = part(".api.default.explain").sync(client=client, body=form)
    assert heat.payload.read(8) == b"\x89PNG\r\n\x1a\n"
