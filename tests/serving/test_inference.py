"""The Open Inference Protocol: its addresses, its tensors in JSON and in binary, and its errors."""

from __future__ import annotations

import base64
import contextlib
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from serving.contract.errors import ServingError
from serving.http.inference import tensors
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.settings import Settings
from tests import tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene
from tests.serving.test_app import value

JPEG, PNG = encode(scene()), encode(scene(), "PNG")
INFER = "/v2/models/tiny/infer"
LENGTH = "Inference-Header-Content-Length"
MOST = 4


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Client]:
    """A service that takes few photos a request."""
    settings = Settings(model=str(model), workers=2, max_parts=MOST, max_body_bytes=1_000_000)
    with running(settings) as ready:
        yield ready


def image(*photos: bytes, **changes: Any) -> dict[str, Any]:
    """The input tensor in JSON."""
    data = [base64.b64encode(photo).decode() for photo in photos]
    return {"name": "image", "datatype": "BYTES", "shape": [len(photos)], "data": data} | changes


def binary(*photos: bytes, size: int | None = None, **request: Any) -> dict[str, Any]:
    """A request with the photos after the JSON, as keywords of `client.post`."""
    raw = b"".join(struct.pack("<I", len(photo)) + photo for photo in photos)
    tensor = image(*photos, parameters={"binary_data_size": len(raw) if size is None else size})
    del tensor["data"]
    head = msgspec.json.encode({"inputs": [tensor], **request})
    return {"content": head + raw, "headers": {LENGTH: str(len(head))}}


def outputs(reply) -> dict[str, Any]:
    """The outputs of an answer in JSON by name, checked for their shapes."""
    assert reply.status_code == 200, reply.text
    content = reply.json()
    assert (content["model_name"], content["model_version"]) == ("tiny", "1")
    return {output["name"]: output["data"] for output in content["outputs"]}


def test_the_server_and_the_model_describe_themselves(client: Client):
    """With and without the version; every address of the protocol answers."""
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        assert client.get(f"{path}/ready").json() == {"name": "tiny", "ready": True}
        described = client.get(path).json()
        assert described["platform"] == "pytorch_torchscript"
        assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert described["outputs"][0] == {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [-1, 2],
            "parameters": {"labels": ["cat", "dog"]},
        }


def test_json_and_binary_give_the_answers_of_predict(client: Client):
    """Several photos a request, in order; a model that cannot tell the unfamiliar has no such output."""
    alone = [client.post("/predict", content=photo).json() for photo in (JPEG, PNG)]
    expected = {
        "probabilities": [p for answer in alone for p in answer["probabilities"].values()],
        "label": [answer["prediction"] for answer in alone],
        "uncertain": [answer["uncertain"] for answer in alone],
    }
    nested = image(JPEG, PNG, shape=[2, 1])
    nested["data"] = [[photo] for photo in nested["data"]]
    for request in (
        {"json": {"inputs": [image(JPEG, PNG)]}},
        {"json": {"inputs": [nested]}},
        binary(JPEG, PNG),
    ):
        found = outputs(client.post(INFER, **request))
        assert found.pop("probabilities") == pytest.approx(expected["probabilities"], abs=1e-6)
        assert found == {name: data for name, data in expected.items() if name != "probabilities"}


def test_outputs_come_as_they_are_asked_for(client: Client):
    """In the order of the request, each in JSON or in binary, with the id of the request."""
    asked = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "uncertain"}]
    reply = client.post(INFER, **binary(JPEG, PNG, id="mine", outputs=asked))
    size = int(reply.headers[LENGTH])
    head = msgspec.json.decode(reply.content[:size])
    label, uncertain = head["outputs"]
    assert (head["id"], label["name"], uncertain["name"]) == ("mine", "label", "uncertain")
    assert reply.content[size:][:7] in (b"\x03\0\0\0cat", b"\x03\0\0\0dog")
    assert label["parameters"]["binary_data_size"] == len(reply.content) - size == 14
    assert len(uncertain["data"]) == 2
    everything = client.post(INFER, **binary(JPEG, parameters={"binary_data_output": True}))
    found = msgspec.json.decode(everything.content[: int(everything.headers[LENGTH])])["outputs"]
    sizes = {output["name"]: output["parameters"]["binary_data_size"] for output in found}
    assert sizes == {"probabilities": 8, "label": 7, "uncertain": 1}


def test_it_is_counted_and_logged_as_predict_is(client: Client):
    """One metric and one line a photo."""
    before = value(client, "classifier_requests_total", outcome="ok")
    with capture_logs() as lines:
        client.post(INFER, json={"inputs": [image(JPEG, PNG)]}, headers={"X-Request-ID": "v"})
    assert value(client, "classifier_requests_total", outcome="ok") == before + 2
    assert sorted(line["request_id"] for line in lines) == ["v.1", "v.2"]
    assert {line["route"] for line in lines} == {"/v2/models/{name}/infer"}


def test_a_refused_photo_is_named_in_the_one_error(client: Client):
    """The protocol has no answer for a part of the photos; each is still counted."""
    before = value(client, "classifier_requests_total", outcome="unsupported-image")
    reply = client.post(INFER, json={"inputs": [image(JPEG, b"no photo")]})
    assert reply.status_code == 415
    assert reply.json()["error"].startswith("photo 2 of 2: The bytes are not an image")
    assert value(client, "classifier_requests_total", outcome="unsupported-image") == before + 1


HUGE = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[%s],"data":[]}]}'
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no JSON": ({"content": b"x"}, 400, "JSON"),
    "no inputs": ({"json": {}}, 400, "missing required field `inputs`"),
    "two inputs": ({"json": {"inputs": [image(JPEG), image(JPEG)]}}, 400, "has one input, 'image'"),
    "another input": ({"json": {"inputs": [image(JPEG, name="x")]}}, 400, "the request has 'x'"),
    "pixels": ({"json": {"inputs": [image(JPEG, datatype="UINT8")]}}, 400, "not 'UINT8'"),
    "another shape": ({"json": {"inputs": [image(JPEG, shape=[2])]}}, 400, "the data has 1 elements"),
    "no shape": ({"json": {"inputs": [image(JPEG, shape=[])]}}, 400, r"is [N] or [N,1]"),
    "a side of digits": (
        {"content": HUGE % (b"1," + b"9" * 25)},
        400,
        "Expected `int` <= 9223372036854775807",
    ),
    "many sides": ({"json": {"inputs": [image(JPEG, shape=[1] * 300)]}}, 400, "1, 1, 1"),
    "an id without end": ({"json": {"inputs": [image(JPEG)], "id": "x" * 1001}}, 400, "of length <= 1000"),
    "no photos": ({"json": {"inputs": [image()]}}, 400, "with N at least 1"),
    "numbers": ({"json": {"inputs": [image(JPEG, data=[1])]}}, 400, "in base64"),
    "too many": ({"json": {"inputs": [image(*[JPEG] * 5)]}}, 413, "more than 4 photos"),
    "an unknown output": (
        {"json": {"inputs": [image(JPEG)], "outputs": [{"name": "logits"}]}},
        400,
        "no output 'logits'. The outputs are probabilities, label, uncertain.",
    ),
    "classification": (
        {
            "json": {
                "inputs": [image(JPEG)],
                "outputs": [{"name": "label", "parameters": {"classification": 3}}],
            }
        },
        400,
        "not supported",
    ),
    "a wrong size": (binary(JPEG, size=3), 400, "binary_data_size is 3"),
    "a size of JSON beyond the body": (binary(JPEG) | {"headers": {LENGTH: "9999999"}}, 400, "9999999"),
    "a size of JSON that is none": (binary(JPEG) | {"headers": {LENGTH: "-1"}}, 400, "not '-1'"),
    "a coding": ({"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "content coding"),
    "too large": ({"content": bytes(1_000_001)}, 413, "1000000 bytes"),
    "an empty photo": ({"json": {"inputs": [image(b"")]}}, 422, "The image is empty (0 bytes)."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_fault_is_an_error_of_the_protocol(client: Client, case: str):
    """`{"error": "…"}`, with the cause, and never a 500."""
    request, status, words = REFUSED[case]
    reply = client.post(INFER, **request)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}
    assert words in reply.json()["error"]
    assert len(reply.json()["error"]) < 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/tiny/versions/2/ready", 404),
        ("POST", "/v2/models/tiny/versions/2/infer", 404),
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("POST", "/v2", 405),
    ],
)
def test_other_addresses_are_errors_of_the_protocol(client: Client, method: str, path: str, status: int):
    """Another model, another version, and what the protocol does not have."""
    reply = client.request(method, path, json={"inputs": [image(JPEG)]} if method == "POST" else None)
    assert reply.status_code == status
    assert set(reply.json()) == {"error"}


def test_only_inference_needs_the_key(model: Path):
    """As `/predict` does; a probe has no key."""
    with running(Settings(model=str(model), api_key="k")) as client:
        assert client.get("/v2/models/tiny/ready").status_code == 200
        refused = client.post(INFER, json={"inputs": [image(JPEG)]})
        assert (refused.status_code, set(refused.json())) == (401, {"error"})
        assert (
            client.post(INFER, json={"inputs": [image(JPEG)]}, headers={"X-API-Key": "k"}).status_code == 200
        )


def test_before_the_model_is_ready_the_protocol_says_so(tmp_path: Path):
    """Not ready is 503, with when to ask again; alive it is."""
    with running(Settings(model=str(tmp_path / "none.pt")), until="failed") as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": False}
        reply = client.post(INFER, json={"inputs": [image(JPEG)]})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


def test_a_reload_between_the_photos_is_no_answer_of_two_models(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A tensor has the labels of one model, and the answer names one: 503, and the next try is answered."""
    other = tiny.write_artifact(tmp_path / "other.pt", labels=("cat", "dog", "fox"))
    first, second = ImageClassifierHandler(), ImageClassifierHandler()
    first.initialize(LocalContext.for_file(model))
    second.initialize(LocalContext.for_file(other))
    with running(Settings(model=str(model), workers=1)) as client:
        engine, infer = client.app.state.service.engine, first.inference

        def infer_for_the_last_time(batch: Any) -> Any:
            engine.replace(second)
            return infer(batch)

        monkeypatch.setattr(first, "inference", infer_for_the_last_time)
        engine.replace(first)
        reply = client.post(INFER, **binary(JPEG, PNG))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.json() == {"error": "The model was replaced while the photos were computed. Retry."}
        again = client.post(INFER, **binary(JPEG, PNG)).json()
        assert again["outputs"][0]["shape"] == [2, 3]


def test_tensors_of_megabytes_are_read_without_a_copy_of_the_body():
    """In JSON and in binary: nobody else is answered meanwhile, and the budget counts each body once."""
    photo = bytes(3_000_000)
    sent = binary(photo)
    in_json = bytearray(msgspec.json.encode({"inputs": [image(photo)]}))
    for body, size in ((in_json, None), (bytearray(sent["content"]), int(sent["headers"][LENGTH]))):
        tracemalloc.start()
        try:
            assert tensors.read(body, size, MOST, [*tensors.OUTPUTS]).photos == [photo]
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 1.1 * len(photo)


@given(body=st.binary(max_size=200), size=st.none() | st.integers(0, 250))
def test_any_bytes_are_read_or_refused(body: bytes, size: int | None):
    """Never another error, which would be a 500."""
    with contextlib.suppress(ServingError):
        assert tensors.read(body, size, MOST, [*tensors.OUTPUTS]).photos


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("aGFsbG8="),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    shape=ANY,
    data=ANY,
    parameters=ANY,
    outputs=ANY,
    rest=st.binary(max_size=20),
    datatype=st.just("BYTES") | ANY,
)
def test_any_tensor_is_read_or_refused(shape, data, parameters, outputs, rest, datatype):
    """As above, closer to what is valid."""
    tensor = {"name": "image", "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}
    head = msgspec.json.encode({"inputs": [tensor], "outputs": outputs})
    test_any_bytes_are_read_or_refused.hypothesis.inner_test(head + rest, len(head))
