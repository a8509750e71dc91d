"""A backbone's feature maps, before it pools them: what a class activation map is drawn from."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import nn

from training.network.build import Classifier, CompactCNN

_SAME: Final = 1e-4


def pools_its_maps(network: Classifier, images: torch.Tensor) -> bool:
    """Whether the features of `u8[N,3,S,S]` are the mean of the feature maps over their area.

    Those of a ResNet and an EfficientNet are. A ConvNeXt normalises after pooling, a MobileNetV4 has another
    convolution there, and a vision transformer has tokens.
    """
    with torch.no_grad():
        maps, features = feature_maps(network, images), network.features(images)
    pooled = maps.mean((2, 3)) if maps.ndim == 4 else maps
    return pooled.shape == features.shape and torch.allclose(pooled, features, atol=_SAME)


def feature_maps(network: Classifier, images: torch.Tensor) -> torch.Tensor:
    """`u8[N,3,S,S]` to what the backbone pools: `f32[N,D,h,w]`; some backbones give another shape."""
    maps: torch.Tensor = _maps(network.backbone, network.normalise(images))
    return maps


def _maps(backbone: nn.Module, scaled: torch.Tensor) -> Any:
    if isinstance(backbone, CompactCNN):
        return backbone.stages(scaled)
    return cast("Any", backbone).forward_features(scaled)  # timm's name for it
