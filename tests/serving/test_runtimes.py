"""TorchScript and ONNX Runtime answer alike, and a process has only the one that its model needs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest

from serving.contract import artifact, onnx
from serving.contract.errors import ArtifactError
from serving.contract.preprocess import preprocess
from serving.runtime import load
from serving.runtime.context import LocalContext
from serving.runtime.handler import ImageClassifierHandler, load_handler
from serving.settings import Settings
from tests import tiny
from tests.conftest import running
from tests.pictures import encode, scene
from tests.processes import service
from tests.serving.test_shadow import ask, counts, wait_for, wait_until_loaded

Environment = Callable[..., dict[str, str]]
PHOTOS = [encode(scene(90 + number, 70)) for number in range(5)]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the fixture `model`, in ONNX."""
    return tiny.write_artifact(tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_both_give_the_same_answers_and_explanations(model: Path, other: Path):
    """From the same weights: probabilities, distances and maps agree."""
    first, second = load_handler(model), load_handler(other)
    assert second.artifact.card == first.artifact.card
    items = [{"body": photo} for photo in PHOTOS]
    for one, two in zip(first.handle(items), second.handle(items), strict=True):
        assert two.probability == pytest.approx(one.probability, abs=1e-4)
        assert two.feature_distance == pytest.approx(one.feature_distance, abs=1e-4)
    image = preprocess(PHOTOS[0], tiny.SIDE)
    maps = first.explain(image)
    for label, heat in second.explain(image).items():
        assert np.allclose(heat, maps[label], atol=1e-4)
    assert first.describe_handle()["runtime"].startswith("torchscript 2")
    assert second.describe_handle()["runtime"] == f"onnxruntime {onnxruntime.__version__}, cpu"


def test_passes_of_fixed_sizes_change_no_answer_in_onnx(other: Path):
    """Five photos in passes of four, the last one padded, answer as one by one."""
    batched = ImageClassifierHandler(max_batch=4)
    batched.initialize(LocalContext.for_file(other))
    items = [{"body": photo} for photo in PHOTOS]
    for one, two in zip(load_handler(other).handle(items), batched.handle(items), strict=True):
        assert two.probability == pytest.approx(one.probability, abs=1e-5)


@pytest.mark.parametrize("where", [0.001, 0.3, 0.97, 0.9999])
def test_a_flipped_bit_in_an_onnx_file_is_found(other: Path, tmp_path: Path, where: float):
    """In the graph, in the metadata and in the seal."""
    data = bytearray(other.read_bytes())
    data[int(where * len(data))] ^= 1
    path = tmp_path / "flipped.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="neither a complete TorchScript archive nor a complete ONNX"):
        load.load(path)


@pytest.mark.parametrize("share", [0, 0.1, 0.999])
def test_a_truncated_onnx_file_is_refused(other: Path, tmp_path: Path, share: float):
    """Wherever it ends."""
    data = other.read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArtifactError, match="damaged or not a model"):
        artifact.read(path)


def test_a_sealed_file_that_is_no_graph_is_refused_by_the_runtime(other: Path, tmp_path: Path):
    """With a valid card: the error names the runtime and the next step."""
    _, members = onnx.split(other.read_bytes())
    path = tmp_path / "text.onnx"
    path.write_bytes(onnx.join(b"not a graph", members))
    with pytest.raises(ArtifactError, match=r"onnxruntime [\d.]+ cannot run the model .* Export it again"):
        load.load(path)


def test_the_metadata_of_an_onnx_file_is_readable_by_other_tools(other: Path):
    """Card and probe are ordinary metadata of the model."""
    session = onnxruntime.InferenceSession(other, providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    assert stored["card.json"].startswith("{")
    assert set(stored) == {"card.json", "probe.json", "seal"}


@pytest.mark.parametrize("kind", ["model.pt", "model.onnx"])
def test_another_card_leaves_the_network_as_it_is(kind: str, model: Path, other: Path, tmp_path: Path):
    """Whatever the runtime."""
    source = model if kind == "model.pt" else other
    loaded = artifact.read(source)
    load.reseal(source, tmp_path / kind, tiny.card(("left", "right")), loaded.probe)
    changed = load_handler(tmp_path / kind)
    assert changed.artifact.card.labels == ["left", "right"]
    before = load_handler(source).handle([{"body": PHOTOS[0]}])[0]
    assert changed.handle([{"body": PHOTOS[0]}])[0].probability == before.probability


def test_a_device_that_the_runtime_lacks_is_refused(other: Path, monkeypatch: pytest.MonkeyPatch):
    """With the package that has it."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ArtifactError, match=r"SERVING_DEVICE=cuda: .* Install onnxruntime-gpu"):
        load.load(other, "cuda")
    assert load.choose_device("auto", other) == "cpu"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert load.choose_device("auto", other) == "cuda"
    assert load.choose_device("auto", other.with_name("missing")) == "cpu"


@pytest.mark.parametrize("reverse", [False, True])
def test_a_shadow_of_the_other_runtime_agrees(model: Path, other: Path, reverse: bool):
    """One of each kind in one process, in both roles."""
    served, shadow = (other, model) if reverse else (model, other)
    settings = Settings(model=str(served), workers=1, shadow_model=str(shadow), shadow_share=1.0)
    with running(settings) as client:
        wait_until_loaded(client)
        ask(client, 10)
        found = wait_for(client, 10)
        assert (found["disagreed"], found["failed"]) == (0, 0)
        assert counts(client)["agreed"] > 0


def without(package: str, folder: Path) -> dict[str, str]:
    """Environment in which a package cannot be imported."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    return {"PYTHONPATH": str(folder)}


def test_a_process_with_an_onnx_model_needs_no_torch(other: Path, tmp_path: Path, environment: Environment):
    """It becomes ready, predicts, explains, reloads and reports, and torch cannot be imported."""
    with service(environment(MODEL=str(other), **without("torch", tmp_path))) as process:
        assert process.wait_for("ready")["runtime"].startswith("onnxruntime")
        for path in ("/predict", "/explain", "/drift", "/metrics", "/health"):
            send = {"content": PHOTOS[0]} if path in ("/predict", "/explain") else {}
            method = "POST" if send else "GET"
            assert httpx.request(method, process.url + path, timeout=20, **send).status_code == 200, path
        process.popen.send_signal(signal.SIGHUP)
        process.wait_for("reloaded")
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (False, "needs the package onnxruntime, which is not installed here"),
        (True, "it is damaged or not a model"),
    ],
)
def test_a_runtime_that_is_not_installed_is_named_unless_the_file_is_damaged(
    damaged: bool, words: str, other: Path, tmp_path: Path, environment: Environment
):
    """As in the image of the other runtime, where a damaged TorchScript file may look like no archive."""
    path = tmp_path / "model"
    path.write_bytes(b"\0" * 100 if damaged else other.read_bytes())
    with service(environment(MODEL=str(path), **without("onnxruntime", tmp_path))) as process:
        assert process.popen.wait(60) == 1
        assert words in process.wait_for("failed")["reason"]
