"""The network: `u8[N,3,S,S]` in, logits `f32[N,K]` out; normalisation is inside.

A timm backbone with a linear head, or `compact`, a small CNN trained from scratch as the baseline.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, cast

import timm
import torch
from torch import nn

from common.errors import PipelineError
from training.config import ModelConfig
from training.network.weights import BN_EPS, PACKAGED, load_packaged_weights

_HALF: Final = (0.5, 0.5, 0.5)  # -1..1, as the packaged weights expect; not ImageNet's mean and deviation


class Classifier(nn.Module):
    """Normalise, extract features, classify."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        classes: int,
        dropout: float,
        mean: Sequence[float] = _HALF,
        std: Sequence[float] = _HALF,
    ) -> None:
        """Join the parts; `mean` and `std` are per channel, in the range 0..1."""
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
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

    width: Final = 256

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 32, 64, 128, 192, self.width)
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


def build(config: ModelConfig, classes: int, *, weights: bool = True) -> Classifier:
    """Build the network; with `weights`, start from ImageNet weights if configured.

    Raises:
        PipelineError: the backbone is unknown, or the weights do not fit it.
    """
    if config.backbone == "compact":
        if config.pretrained:
            raise PipelineError("The compact backbone has no ImageNet weights: set model.pretrained=false.")
        return Classifier(CompactCNN(), CompactCNN.width, classes, config.dropout)
    if not timm.is_model(config.backbone):
        near = timm.list_models(f"*{config.backbone.split('_')[0]}*")[:5]
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise PipelineError(
            f"timm has no model {config.backbone!r}.{hint} Set model.backbone to one that it has."
        )
    mean, std = _HALF, _HALF
    if config.backbone in PACKAGED:
        backbone = timm.create_model(config.backbone, num_classes=0, bn_eps=BN_EPS)
        if weights and config.pretrained:
            load_packaged_weights(backbone, PACKAGED[config.backbone]())
    else:
        backbone = timm.create_model(config.backbone, num_classes=0, pretrained=weights and config.pretrained)
        # as its weights were trained; timm's resolver would guess
        trained = cast("dict[str, Any]", backbone.pretrained_cfg)
        mean, std = trained["mean"], trained["std"]
    return Classifier(backbone, cast("int", backbone.head_hidden_size), classes, config.dropout, mean, std)
