"""The network: `u8[N,3,S,S]` in, logits `f32[N,K]` out; normalisation is inside.

A timm backbone with a linear head, or `compact`, a small CNN trained from scratch as the baseline.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import timm
import torch
from torch import nn

from common.errors import PipelineError
from training.config import ModelConfig
from training.network import released
from training.network.released import OtherNetwork
from training.network.weights import HALF, Design, described, first_lines, load

_COMPACT: Final = "compact"
_ROUNDING: Final = 1e-2
"""Largest difference of a log probability between two forms of one network."""


class Classifier(nn.Module):
    """Normalise, extract features, classify."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, design: Design, backbone: nn.Module, features: int, classes: int, dropout: float
    ) -> None:
        """Join the parts; `features` is the number D of features that `backbone` has."""
        super().__init__()
        self.design = design
        for name, values in (("mean", design.mean), ("std", design.std)):
            by_channel = 255 * torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, by_channel, persistent=False)
        self.read_size: int | None = None
        """Side in pixels to which photos are enlarged for the backbone; None leaves them as they are."""
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to the backbone's input `f32[N,3,R,R]`; R is `read_size`, or S."""
        values = images.to(self.head.weight.dtype).contiguous(memory_format=torch.channels_last)
        if self.read_size is not None:
            values = nn.functional.interpolate(values, (self.read_size, self.read_size), mode="bilinear")
        return (values - self.mean) / self.std

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to the pooled features `f32[N,D]`."""
        pooled: torch.Tensor = self.backbone(self.normalise(images))
        return pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to logits `f32[N,K]`."""
        logits: torch.Tensor = self.head(self.dropout(self.features(images)))
        return logits


class Features(nn.Module):
    """The part of a classifier before its head."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to `f32[N,D]`."""
        return self.network.features(images)


class CompactCNN(nn.Module):
    """Five stages of 3x3 convolutions, 32 to 256 channels, pooled: `f32[N,3,S,S]` to `f32[N,256]`."""

    head_hidden_size: Final = 256
    """Number of features, by timm's name."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 32, 64, 128, 192, self.head_hidden_size)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(wide, wide, 3, padding=1, groups=wide // 32, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(inplace=True),
                )
                for narrow, wide in itertools.pairwise(channels)
            )
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`f32[N,3,S,S]` to `f32[N,256]`."""
        maps: torch.Tensor = self.stages(images)  # f32[N,256,S/32,S/32]
        return maps.mean((2, 3))


def build(config: ModelConfig, classes: int) -> Classifier:
    """Build the network with the configured weights.

    Raises:
        PipelineError: the backbone or its weights are unknown, do not fit each other, or cannot be had.
        ArtifactError: the weights are those of an artefact that is damaged.
    """
    path = Path(config.weights).expanduser()
    if released.is_artefact(path):
        return _of_artefact(config, path, classes)
    if config.backbone != _COMPACT:
        return _classifier(*load(config), classes, config.dropout)
    if config.weights != "none":
        raise PipelineError("The compact backbone is trained from scratch: set model.weights=none.")
    return rebuild(_compact(), classes, config.dropout)


def freeze(network: Classifier, config: ModelConfig, groups: int) -> None:
    """Keep the weights of the first groups of layers, as timm groups them, out of training.

    Args:
        network: Changed in place.
        config: What it was built from.
        groups: 0 trains everything, 1 keeps the stem, 2 the stem and the first stage, and so on.

    Raises:
        PipelineError: these weights are random, or the backbone has no more groups.
    """
    if not groups:
        return
    matcher: Any = getattr(network.backbone, "group_matcher", None)
    if matcher is None or config.weights == "none":
        raise PipelineError(
            f"{config.backbone} begins with random weights, which finetune.frozen_groups={groups} would keep "
            "random. Set finetune.frozen_groups=0, or start from weights (model.weights)."
        )
    names = timm.models.group_parameters(network.backbone, matcher(coarse=True))
    if groups >= len(names):
        raise PipelineError(
            f"{config.backbone} has {len(names)} groups of layers: "
            f"finetune.frozen_groups={groups} leaves none to train. Choose fewer."
        )
    for name in (name for group in range(groups) for name in names[group]):
        network.backbone.get_parameter(name).requires_grad_(False)


def rebuild(design: Design, classes: int, dropout: float) -> Classifier:
    """The network of that design, with random weights."""
    return _classifier(
        design, CompactCNN() if design.architecture == _COMPACT else design.empty(), classes, dropout
    )


def _of_artefact(config: ModelConfig, path: Path, classes: int) -> Classifier:
    """The network of an artefact with a new head, once it answers as the artefact does.

    Raises:
        OtherNetwork: the artefact is not of the configured backbone.
    """
    found = released.read(path)
    card = found.artefact.card
    usual = _compact() if config.backbone == _COMPACT else described(config)
    design = replace(usual, mean=found.mean, std=found.std)
    try:
        network = rebuild(design, len(card.labels), config.dropout)
        if _epsilons(network) != found.epsilons:
            arguments = {**design.arguments, "bn_eps": min(found.epsilons)}
            network = rebuild(replace(design, arguments=arguments), len(card.labels), config.dropout)
        network.load_state_dict(found.state)
    except Exception as error:  # of several kinds, where tensors or arguments do not fit
        raise _other(config, path, first_lines(error)) from error
    network.read_size = card.read_size
    with torch.inference_mode():
        answers = torch.softmax(network.eval()(found.images) / card.temperature, 1)
    difference = float((released.log(answers) - found.log_probabilities).abs().max())
    if not difference <= _ROUNDING:
        raise _other(config, path, f"a log probability differs by {difference:.3g}.")
    return _classifier(network.design, network.backbone.train(), classes, config.dropout)


def _epsilons(network: Classifier) -> set[float]:
    return {layer.eps for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}


def _other(config: ModelConfig, path: Path, why: str) -> OtherNetwork:
    return OtherNetwork(
        f"The network of {path} is not a {config.backbone}: {why} Set model.backbone to the architecture "
        "that it was trained with, or name other model.weights."
    )


def _compact() -> Design:
    return Design(_COMPACT, {}, HALF, HALF)


def _classifier(design: Design, backbone: Any, classes: int, dropout: float) -> Classifier:
    return Classifier(design, backbone, backbone.head_hidden_size, classes, dropout)
