"""Each kind of backbone goes the whole way: weights, training, export, both runtimes, explanation."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf

from common.errors import PipelineError
from serving.contract.errors import ArtifactError
from serving.settings import Settings
from tests.conftest import running
from tests.tiny import export_network, train_config, write_artifact
from tests.training.marks import LIBRARIES_WARNINGS_IGNORED
from training.config import ModelConfig
from training.export.artefact import export
from training.fit import checkpoint
from training.fit.job import Job
from training.fit.phases import fit
from training.network import predict
from training.network.build import Classifier, build
from training.network.predict import check
from training.network.released import OtherNetwork
from training.photos.drawn import draw
from training.photos.manifest import read_manifest
from training.place import Place

pytestmark = LIBRARIES_WARNINGS_IGNORED

EXPLAINED = ("resnet18", "efficientnet_lite0")
KINDS = (*EXPLAINED, "convnext_atto", "mobilenetv4_conv_small", "vit_tiny_patch16_224")
VIT = "vit_tiny_patch16_224"
SIDE = 64


def publish(folder: Path, backbone: str, **arguments: Any) -> None:
    """A network of seven classes and random weights, as timm's own command publishes one."""
    torch.manual_seed(5)
    network = timm.create_model(backbone, num_classes=7, **arguments)
    network.pretrained_cfg.update(mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    save_for_hf(network, folder, model_args=arguments, safe_serialization=True)


@pytest.fixture(scope="module", params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder with a network of seven classes, as timm publishes one."""
    folder = tmp_path_factory.mktemp(request.param)
    publish(folder, request.param, **({"img_size": SIDE} if request.param == VIT else {}))
    return request.param, folder


def small(backbone: str, weights: str, *more: str) -> tuple[str, ...]:
    """Options of a short training that keeps the backbone's weights."""
    return (
        *("--model.backbone", backbone, "--model.weights", weights, "--model.input_size", str(SIDE)),
        *("--finetune.input_sizes", f"[{SIDE}]", "--finetune.epochs_per_pass", "1", *more),
    )


def of(backbone: str, weights: Path | str, side: int = SIDE) -> ModelConfig:
    """The network's part of the configuration."""
    return ModelConfig("tiny", backbone, str(weights), side, 0.0)


@pytest.mark.slow
def test_the_whole_way(published: tuple[str, Path], place: Place):
    """Train, export, serve with each runtime; heat maps, or an answer that this network has none."""
    backbone, folder = published
    config = train_config(*small(backbone, f"local-dir:{folder}"))
    fit(Job.plan(config, read_manifest(place), place))
    folder.rename(folder.with_name("moved"))  # the checkpoint has all that it takes
    try:
        export(config, place)
    finally:
        folder.with_name("moved").rename(folder)
    photo = read_manifest(place).splits["test"].paths[0].read_bytes()
    found = {}
    for path in (place.model, place.onnx, place.int8):
        with running(Settings(model=str(path))) as client:
            found[path] = client.post("/predict", content=photo).json()["probabilities"]["cat"]
            explained = client.post("/explain", content=photo)
        assert explained.status_code == (200 if backbone in EXPLAINED else 501), explained.text
    assert found[place.onnx] == pytest.approx(found[place.model], abs=1e-4)
    assert found[place.int8] == pytest.approx(found[place.model], abs=0.2)


def test_weights_of_a_folder(published: tuple[str, Path]):
    """Tensors, mean and deviation of its own; the number of its classes does not matter."""
    backbone, folder = published
    ours = build(of(backbone, f"local-dir:{folder}"), 3)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    state = ours.backbone.state_dict()
    assert len(stored) - len(state) == 2, "all but the classifier's weight and bias"
    assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items())
    assert (ours.mean / 255).flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert (ours.std / 255).flatten().tolist() == pytest.approx([0.3, 0.2, 0.1])


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("with_classifier", [True, False])
def test_weights_of_a_file(published: tuple[str, Path], suffix: str, with_classifier: bool, tmp_path: Path):
    """In both formats, with a classifier of any size or without; timm's normalisation of that name."""
    backbone, folder = published
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    if not with_classifier:
        kept = set(build(of(backbone, "none"), 2).backbone.state_dict())
        stored = {name: tensor for name, tensor in stored.items() if name in kept}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in stored.items()}}, path)
    else:
        safetensors.torch.save_file(stored, path)
    state = build(of(backbone, path), 3).backbone.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items())


def features_are_equal(one: Classifier, other: Classifier) -> bool:
    """To the bit, on a drawn cat and a drawn dog, by the same layers."""
    drawn = [draw(label, np.random.default_rng(1)).resize((SIDE, SIDE)) for label in ("cat", "dog")]
    images = torch.from_numpy(np.stack([np.asarray(picture) for picture in drawn])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        first, second = (network.eval().features(images) for network in (one, other))
    return torch.equal(first, second) and repr(one.backbone) == repr(other.backbone)


def test_weights_of_an_artefact_of_the_compact_network(tmp_path: Path):
    """The released model's features, and a new head for the classes of today."""
    champion = build(of("compact", "none"), 2)
    ours = build(of("compact", export_network(tmp_path / "model.pt", champion)), 3)
    assert ours.training
    assert ours.head.out_features == 3
    assert ours.design == champion.design
    assert features_are_equal(ours, champion)


@pytest.mark.slow
def test_weights_of_an_artefact(published: tuple[str, Path], tmp_path: Path):
    """With the mean and deviation that it was trained with, whatever timm has under the configured name."""
    backbone, folder = published
    champion = build(of(backbone, f"local-dir:{folder}"), 2)
    ours = build(of(backbone, export_network(tmp_path / "model.pt", champion)), 2)
    assert (ours.design.mean, ours.design.std) == (champion.design.mean, champion.design.std)
    assert features_are_equal(ours, champion)


@pytest.mark.slow
def test_an_artefact_brings_its_epsilon_and_not_its_enlarging(tmp_path: Path):
    """The epsilon of batch norm is a constant of its graph; enlarging the input is the export's choice."""
    publish(tmp_path / "own", "efficientnet_lite0", bn_eps=0.02)
    champion = build(of("efficientnet_lite0", f"local-dir:{tmp_path}/own"), 2)
    champion.read_size = 96
    ours = build(of("efficientnet_lite0", export_network(tmp_path / "model.pt", champion)), 2)
    assert ours.design.arguments == {"bn_eps": 0.02}
    champion.read_size = None
    assert ours.read_size is None
    assert features_are_equal(ours, champion)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_artefact", "configured", "why"),
    [
        ("compact", "resnet18", "Missing key"),
        ("resnet18", "compact", "Missing key"),
        ("efficientnet_lite0", "tf_efficientnet_lite0", r"a log probability differs by \d"),
    ],
)
def test_an_artefact_of_another_architecture_is_refused(
    of_artefact: str, configured: str, why: str, tmp_path: Path
):
    """By its tensors, or by its answers where another padding has the same tensors."""
    path = export_network(tmp_path / "model.pt", build(of(of_artefact, "none"), 2))
    with pytest.raises(OtherNetwork, match=rf"is not a {configured}: .*{why}.* Set model.backbone"):
        build(of(configured, path), 2)


def test_a_damaged_artefact_is_no_start(tmp_path: Path):
    """Its bytes are checked before anything of it is used."""
    path = write_artifact(tmp_path / "model.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        build(of("compact", path), 2)


def test_arguments_of_the_architecture_come_along(tmp_path: Path):
    """Such as another epsilon of batch norm; a checkpoint rebuilds the same network without the folder."""
    publish(tmp_path / "own", "efficientnet_lite0", bn_eps=0.02)
    config = of("efficientnet_lite0", f"local-dir:{tmp_path}/own")
    ours = build(config, 2).eval()
    path = tmp_path / "checkpoint.ckpt"
    checkpoint.write(path, checkpoint.Checkpoint(config, ours.design, ["a", "b"], ours.state_dict()))
    (tmp_path / "own").rename(tmp_path / "gone")
    again = checkpoint.read(path).network()
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(ours(images), again(images))
    assert {m.eps for m in again.modules() if hasattr(m, "eps")} == {0.02}


def test_what_a_description_leaves_out_is_that_of_the_architecture(tmp_path: Path):
    """A `config.json` with little more than the name."""
    publish(tmp_path / "own", "resnet18")
    described = {"architecture": "resnet18", "num_classes": 7, "pretrained_cfg": {}}
    (tmp_path / "own/config.json").write_text(json.dumps(described))
    ours = build(of("resnet18", f"local-dir:{tmp_path}/own"), 2)
    assert (ours.mean / 255).flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_vision_transformer_takes_the_size_that_is_set():
    """Its position embedding is made for it; another size is refused before anything is trained."""
    network = build(of(VIT, "none", side=48), 2).eval()
    with torch.inference_mode():
        assert network(torch.zeros((1, 3, 48, 48), dtype=torch.uint8)).shape == (1, 2)


def test_a_size_that_the_network_does_not_take_ends_before_training(place: Place):
    """With the sizes to change."""
    config = train_config(*small(VIT, "none"), "--finetune.input_sizes", "[32, 64]")
    with pytest.raises(PipelineError, match=r"(?s)does not take photos of 32x32 .*finetune\.input_sizes"):
        fit(Job.plan(config, read_manifest(place), place))
    assert not list(place.work.glob("*/head.pt"))


def test_an_error_without_words_is_named_by_its_kind(monkeypatch: pytest.MonkeyPatch):
    """Some networks assert and say nothing."""
    network = build(of("resnet18", "none"), 2)
    monkeypatch.setattr(network, "features", lambda _: (_ for _ in ()).throw(AssertionError))
    with pytest.raises(PipelineError, match=r"photos of 64x64 pixels: AssertionError"):
        check(network, SIDE, ())


def test_a_network_that_cannot_be_compiled_as_it_is_served_ends_before_training(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """With AVX-512, oneDNN has no depthwise convolution over a map of one pixel; elsewhere it has one."""

    def run(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("could not create a primitive descriptor for a convolution")

    monkeypatch.setattr(predict, "fusing", lambda _: contextlib.nullcontext(run))
    config = train_config(*small("efficientnet_lite0", "none"), "--model.input_size", "32")
    with pytest.raises(PipelineError, match=r"does not take photos of 32x32 pixels: .*primitive"):
        fit(Job.plan(config, read_manifest(place), place))


def wrong(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Backbone, weights and what the error says."""
    publish(folder / "own", "resnet18")
    stored = safetensors.torch.load_file(folder / "own/model.safetensors")
    safetensors.torch.save_file(
        {k: t for k, t in stored.items() if "layer4" not in k}, folder / "part.safetensors"
    )
    (folder / "damaged.pth").write_bytes(b"not a file of tensors")
    (folder / "empty").mkdir()
    torch.save(timm.create_model("resnet18"), folder / "module.pth")
    return {
        "another architecture": (
            "resnet34",
            f"local-dir:{folder}/own",
            "is of a resnet18. Set model.backbone=resnet18",
        ),
        "tensors of another": ("resnet34", f"{folder}/own/model.safetensors", "has no weights of a resnet34"),
        "half of the tensors": ("resnet18", f"{folder}/part.safetensors", "has no weights of a resnet18"),
        "no tensors": ("resnet18", f"{folder}/damaged.pth", "has no weights of a resnet18"),
        "no file": ("resnet18", f"{folder}/none.pth", "There is no file .* Set model.weights to pretrained"),
        "no description": ("resnet18", f"local-dir:{folder}/empty", "cannot be had: .*config.json"),
        "an empty source": ("resnet18", "local-dir:", "cannot be had: .*Name a folder with a config.json"),
        "an unknown tag": ("resnet18.nothing", "none", "timm has no model 'resnet18.nothing'"),
        "a pickled module": ("resnet18", f"{folder}/module.pth", "save its state_dict.. alone"),
        "a source as backbone": (
            "hf-hub:timm/resnet18",
            "none",
            "is no name of an architecture.*model.weights to hf-hub",
        ),
        "no such hub": (
            "resnet18",
            "hf-hub:timm/resnet18.a1_in1k",
            "cannot be had: .*download the file elsewhere",
        ),
        "no way to timm's": (
            "resnet18",
            "pretrained",
            "model.weights=pretrained cannot be had: .*download the file",
        ),
    }


def test_wrong_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Never silently replaced by random ones, and the message has the next step."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for what, (backbone, weights, message) in wrong(tmp_path).items():
        with pytest.raises(PipelineError) as refused:
            build(of(backbone, weights), 2)
        assert re.search(message, str(refused.value)), f"{what}: {refused.value}"
