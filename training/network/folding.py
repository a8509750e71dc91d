"""Frozen batch norms folded into the convolutions before them, while training.

With frozen statistics a batch norm is a fixed scale and shift of each channel, so a convolution and its norm
are one convolution with scaled weights and a bias. The parameters and their gradients remain those of the
two; what is saved is a pass over every feature map, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn import functional

_TOLERANCE: Final = 1e-3
"""Largest difference of logits by rounding, as a share of the largest logit."""


@contextmanager
def folded(network: nn.Module, size: int, *, frozen: bool) -> Iterator[None]:
    """Fold the norms inside the block, if they are frozen.

    Where folding changes what the network computes, because the output of a convolution has another use
    besides its norm, nothing is folded.

    Args:
        network: On the CPU: `u8[N,3,S,S]` to logits. In the block its norms are in evaluation mode whenever
            it runs, and it may be moved.
        size: S, in pixels.
        frozen: Whether the norms are; else nothing is folded.
    """
    if not frozen:
        yield
        return
    training = network.training
    seeded = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=seeded)
    network.eval()
    with torch.no_grad():
        before, pairs = network(images), _pairs(network, images)
        for convolution, norm in pairs:
            vars(convolution)["forward"] = partial(_convolve, convolution, norm)
            vars(norm)["forward"] = partial(_activate, norm)
        error = (network(images) - before).abs().max()
    network.train(training)
    if not error <= _TOLERANCE * before.abs().max():
        _unfold(pairs)
    try:
        yield
    finally:
        _unfold(pairs)


def _pairs(network: nn.Module, images: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose output goes into a batch norm, and that norm."""
    made: list[tuple[torch.Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note(convolution: nn.Conv2d, _given: Any, output: torch.Tensor) -> None:
        made.append((output, convolution))

    def join(norm: nn.BatchNorm2d, given: tuple[torch.Tensor]) -> None:
        pairs.extend((convolution, norm) for output, convolution in made if output is given[0])

    hooks = [
        module.register_forward_hook(note)
        if type(module) is nn.Conv2d
        else module.register_forward_pre_hook(join)
        for module in network.modules()
        if type(module) in (nn.Conv2d, nn.BatchNorm2d, BatchNormAct2d)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return pairs


def _unfold(pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> None:
    for module in (module for pair in pairs for module in pair):
        vars(module).pop("forward", None)  # the class's own again


def _convolve(convolution: nn.Conv2d, norm: nn.BatchNorm2d, inputs: torch.Tensor) -> torch.Tensor:
    """The convolution and its norm as one: `f32[N,C,H,W]` to `f32[N,D,h,w]`."""
    mean: Any = norm.running_mean
    variance: Any = norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)  # [D]
    shift = norm.bias - mean * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    return functional.conv2d(
        inputs,
        convolution.weight * scale[:, None, None, None],
        shift,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )


def _activate(norm: nn.BatchNorm2d, inputs: torch.Tensor) -> torch.Tensor:
    """What timm's norms do after normalising."""
    if isinstance(norm, BatchNormAct2d):
        inputs = norm.act(norm.drop(inputs))
    return inputs
