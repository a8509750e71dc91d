"""The handler file of a TorchServe archive: what it answers, and along with what."""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from pathlib import Path

import pytest

from serving import torchserve
from serving.torchserve import TorchServeHandler
from tests.pictures import encode, scene

PHOTO = bytearray(encode(scene()))


class Requests:
    """The context of a batch, as TorchServe's: what was sent along, and what is answered along."""

    def __init__(self, model: Path, *headers: dict[str, str]) -> None:
        self.system_properties = {"model_dir": str(model.parent), "gpu_id": None, "batch_size": 4}
        self.manifest = {"model": {"serializedFile": model.name}}
        self.headers = headers
        self.statuses: dict[int, tuple[int, str]] = defaultdict(lambda: (200, ""))
        self.types: dict[int, str] = {}

    def get_request_header(self, idx: int, key: str) -> str | None:
        """A header of a request."""
        return self.headers[idx].get(key)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Note the status of an answer."""
        self.statuses[idx] = code, phrase

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Note the media type of an answer."""
        self.types[idx] = value


@pytest.fixture(scope="module")
def handler(model: Path) -> TorchServeHandler:
    """The handler file's class, as TorchServe makes and initialises it."""
    made = TorchServeHandler()
    made.initialize(Requests(model))
    return made


def test_the_handler_file_has_one_class():
    """TorchServe takes the only one that a handler file defines, and refuses a file with two."""
    classes = [kind for _, kind in inspect.getmembers(torchserve, inspect.isclass)]
    assert [kind for kind in classes if kind.__module__ == torchserve.__name__] == [TorchServeHandler]


def test_each_request_of_a_batch_gets_an_object_and_a_status(handler: TorchServeHandler, model: Path):
    """A prediction; or a problem's code and sentence, with the status that the service answers it with."""
    context = Requests(model, {}, {}, {}, {}, {})
    data = [{"data": PHOTO}, {}, {"body": b"text"}, {"photo": PHOTO[:-400]}, {"body": bytearray()}]
    answers = json.loads(json.dumps(handler.handle(data, context)))
    assert answers[0]["prediction"] in answers[0]["probabilities"]
    assert answers[0].keys() >= {"probability", "uncertain", "unfamiliar"}
    codes = ["missing-file", "unsupported-image", "broken-image", "empty"]
    assert [answer["error"] for answer in answers[1:]] == codes
    assert all(answer["detail"] for answer in answers[1:])
    assert [context.statuses[index][0] for index in range(5)] == [200, 400, 415, 422, 422]
    assert context.statuses[1] == (400, "No image was sent")
    assert set(context.types.values()) == {"application/json"}


def test_one_request_is_described_and_its_neighbours_are_answered(handler: TorchServeHandler, model: Path):
    """A description (`?customized=true`) comes without a photo."""
    context = Requests(model, {}, {"describe": "True"}, {"describe": "False"})
    first, description, last = handler.handle([{"data": PHOTO}, {}, {"data": PHOTO}], context)
    assert description["labels"] == ["cat", "dog"]
    assert context.statuses[1][0] == 200
    assert first == last
    assert "prediction" in first


def test_one_request_is_explained_and_its_neighbours_are_answered(handler: TorchServeHandler, model: Path):
    """An explanation (`/explanations`) is a map for each label; what is not a photo is refused."""
    context = Requests(model, {"explain": "True"}, {"explain": "True"}, {})
    maps, refusal, last = handler.handle([{"data": PHOTO}, {"data": b"text"}, {"data": PHOTO}], context)
    assert maps.keys() == {"cat", "dog"}
    assert all(isinstance(value, float) for rows in maps.values() for row in rows for value in row)
    assert refusal["error"] == "unsupported-image"
    assert context.statuses[1][0] == 415
    assert "prediction" in last


def test_a_model_without_heat_maps_refuses_explanations(
    handler: TorchServeHandler, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """With the status of the service's `/explain`."""
    monkeypatch.setattr(handler._handler, "explain", lambda _: None)
    context = Requests(model, {"explain": "True"})
    (refusal,) = handler.handle([{"data": PHOTO}], context)
    assert refusal["error"] == "not-explainable"
    assert context.statuses[0][0] == 501


@pytest.mark.parametrize(("gpu", "device", "sizes"), [(1, "cuda:1", [1, 2, 4]), (None, "cpu", [1])])
def test_a_worker_takes_the_gpu_that_it_is_given(
    model: Path, monkeypatch: pytest.MonkeyPatch, gpu: int | None, device: str, sizes: list[int]
):
    """With passes of up to TorchServe's batch; without one it stays on the CPU, one photo a pass."""
    loaded: list[tuple[str, list[int]]] = []

    class Loaded(Exception): ...

    def load(path: Path, device: str, sizes: list[int]) -> None:
        loaded.append((device, sizes))
        raise Loaded

    monkeypatch.setattr("serving.runtime.handler.load", load)
    monkeypatch.setattr("serving.runtime.torchscript.has_gpu", lambda: True)
    context = Requests(model)
    context.system_properties["gpu_id"] = gpu
    with pytest.raises(Loaded):
        TorchServeHandler().initialize(context)
    assert loaded == [(device, sizes)]
