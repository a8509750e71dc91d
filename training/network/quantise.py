"""A trained network in, its int8 version out: static post-training quantisation, per channel.

Batch norm is folded into the preceding convolution, and ReLU6 becomes ReLU: the quantised range ends
at six, so saturation clamps for free. Weights take seven bits, -64 to 63, because a CPU without VNNI
adds pairs of products in 16 bits, where 2 * 255 * 127 would saturate. CPUs then differ only by
rounding.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.ao.quantization import (
    HistogramObserver,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
)
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.errors import PipelineError
from training.network.build import Classifier, CompactCNN

_BATCH = 16
_ENGINE = "x86"
_SAME = 1e-4
_OTHER_WAYS = "Set export.precision=fp32, or choose another model.backbone and train again."
_WEIGHTS = PerChannelMinMaxObserver.with_args(
    dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-64, quant_max=63
)


class _UpToSix(HistogramObserver):
    """Clamps non-negative activations to six, as ReLU6 would, and observes them; others stay unchanged."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        rectified = bool((values >= 0).all())
        observed: torch.Tensor = super().forward(values.clamp(max=6) if rectified else values)
        return observed


def quantise(network: Classifier, images: npt.NDArray[np.uint8]) -> Classifier:
    """Quantise the backbone to int8; normalisation and head stay in fp32.

    Args:
        network: Trained; its backbone has timm's batch norms, each right after its convolution.
        images: `u8[N,3,S,S]`, typical photos, which set the ranges of the activations.

    Raises:
        PipelineError: the backbone has another kind of batch norm or activation, features that are not the
            mean of its feature maps, or code that torch cannot take apart.
    """
    batches = [torch.from_numpy(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    quantised = copy.deepcopy(network).eval()
    if not pools_its_maps(quantised, batches[0]):
        raise PipelineError(
            "export.precision=int8 needs a backbone whose features are the mean of its feature maps, which "
            f"those of {network.design.architecture} are not. " + _OTHER_WAYS
        )
    backbone = quantised.backbone
    observer = _UpToSix if _fold_norms(backbone) else HistogramObserver
    config = QConfig(observer, _WEIGHTS)  # type: ignore[no-untyped-call]
    torch.backends.quantized.engine = _ENGINE
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch.ao announces that torchao replaces it
        example = (network.normalise(batches[0]),)
        try:
            prepared = prepare_fx(_Maps(backbone), QConfigMapping().set_global(config), example)
        except Exception as error:  # of several kinds, where the code depends on the data
            raise PipelineError(
                f"export.precision=int8 cannot take {network.design.architecture} apart: {error} "
                + _OTHER_WAYS
            ) from error
        for batch in batches:
            prepared(network.normalise(batch))
        quantised.backbone = _Pooled(convert_fx(prepared))
    return quantised


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
    maps: torch.Tensor = _Maps(network.backbone)(network.normalise(images))
    return maps


class _Maps(nn.Module):
    """A backbone without its pooling."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, scaled: torch.Tensor) -> torch.Tensor:
        """`f32[N,3,S,S]` to `f32[N,D,h,w]`."""
        if isinstance(self.backbone, CompactCNN):
            maps: torch.Tensor = self.backbone.stages(scaled)
        else:
            maps = cast("Any", self.backbone).forward_features(scaled)  # timm's name for it
        return maps


class _Pooled(nn.Module):
    """A backbone whose features are the mean of its feature maps."""

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.forward_features = maps

    def forward(self, scaled: torch.Tensor) -> torch.Tensor:
        """`f32[N,3,S,S]` to `f32[N,D]`."""
        pooled: torch.Tensor = self.forward_features(scaled).mean((2, 3))
        return pooled


def _fold_norms(module: nn.Module) -> bool:
    """Fold each batch norm into the preceding convolution, in place; return whether there was a ReLU6."""
    had_relu6, before = False, ""
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d):
            convolution = module.get_submodule(before)
            if not isinstance(convolution, nn.Conv2d):
                raise PipelineError(
                    "export.precision=int8 needs each batch norm right after a convolution. " + _OTHER_WAYS
                )
            setattr(module, before, fuse_conv_bn_eval(convolution, child))
            setattr(module, name, _without_limit(child.act))
            had_relu6 |= isinstance(child.act, nn.ReLU6)
        else:
            had_relu6 |= _fold_norms(child)
        before = name
    return had_relu6


def _without_limit(activation: nn.Module) -> nn.Module:
    if isinstance(activation, nn.ReLU | nn.ReLU6):
        return nn.ReLU()
    if isinstance(activation, nn.Identity):
        return activation
    raise PipelineError(
        f"export.precision=int8 supports ReLU and ReLU6, but the backbone has {type(activation).__name__}. "
        + _OTHER_WAYS
    )
