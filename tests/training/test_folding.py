"""Frozen norms folded into convolutions train the same weights as norms that are not; frozen groups stay."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.errors import PipelineError
from tests.tiny import SIDE
from training.config import ModelConfig
from training.network.build import Classifier, build, freeze
from training.network.folding import folded

RANDOM = partial(ModelConfig, "test", weights="none", input_size=SIDE, dropout=0.0)
IMAGES = torch.randint(256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def network(backbone: str) -> Classifier:
    """With statistics and scales as a trained network has them, in evaluation mode and double precision."""
    torch.manual_seed(2)
    made = build(RANDOM(backbone), 2).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
    return made.double()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """Of every parameter, for one batch."""
    model.zero_grad()
    functional.cross_entropy(model(IMAGES), torch.tensor([0, 1, 1, 0])).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("backbone", "norms"), [("compact", 10), ("resnet18", 20), ("efficientnet_lite0", 49)]
)
def test_gradients_are_those_of_convolution_and_norm(backbone: str, norms: int):
    """Of weights, scales and biases alike; and afterwards the network is as it was."""
    model = network(backbone)
    expected, before = gradients(model), model(IMAGES)
    with folded(model, SIDE, frozen=True):
        changed = [module for module in model.modules() if "forward" in vars(module)]
        assert len(changed) == 2 * norms, "otherwise this tests nothing"
        torch.testing.assert_close(model(IMAGES), before)
        for found, wanted in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(model(IMAGES), before)


class Shared(nn.Module):
    """A convolution whose output is also used without its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.bias, 1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to `f32[N,4]`."""
        values = self.convolution(images / 255)
        return (self.norm(values) + values).mean((2, 3))


def test_a_convolution_with_another_use_is_left_alone():
    """Folding would change what the network computes."""
    model = Shared().eval()
    before = model(IMAGES)
    with folded(model, SIDE, frozen=True):
        assert torch.equal(model(IMAGES), before)


def test_frozen_groups_keep_their_weights():
    """The stem and the first stage, and nothing else."""
    model = network("efficientnet_lite0")
    freeze(model, replace(RANDOM("efficientnet_lite0"), weights="pretrained"), 2)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"conv_stem", "bn1", "blocks"}
    assert all(name.startswith("backbone.blocks.0.") for name in frozen if "blocks" in name)
    with folded(model, SIDE, frozen=True):
        functional.cross_entropy(model(IMAGES), torch.tensor([0, 1, 1, 0])).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == frozen


@pytest.mark.parametrize(
    ("backbone", "weights", "groups", "words"),
    [
        ("efficientnet_lite0", "pretrained", 8, "has 8 groups .* Choose fewer"),
        ("efficientnet_lite0", "none", 1, "keep random. Set finetune.frozen_groups=0"),
        ("compact", "none", 1, "keep random. Set finetune.frozen_groups=0"),
    ],
)
def test_groups_that_cannot_be_frozen_are_refused(backbone: str, weights: str, groups: int, words: str):
    """Before anything is trained."""
    with pytest.raises(PipelineError, match=words):
        freeze(network(backbone), replace(RANDOM(backbone), weights=weights), groups)
