"""Int8 predicts like fp32, and every convolution is in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import PipelineError
from serving.contract.preprocess import preprocess
from serving.runtime import torchscript
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from tests.pictures import scene
from tests.tiny import SIDE, card, train_config
from training.config import ModelConfig
from training.export.calibrate import CalibratedClassifier
from training.export.probe import make_probe
from training.export.trace import trace_methods
from training.network.build import build
from training.network.quantise import quantise

IMAGES = np.stack(
    [np.asarray(scene(SIDE, SIDE).rotate(7 * number)).transpose(2, 0, 1) for number in range(32)]
)


def network(backbone: str) -> nn.Module:
    """A network, with ImageNet weights if there are any."""
    torch.manual_seed(1)
    return build(
        ModelConfig("tiny", backbone, "none" if backbone == "compact" else "pretrained", SIDE, 0.0), 2
    ).eval()


@pytest.mark.parametrize("backbone", ["compact", "efficientnet_lite0"])
def test_int8_features_agree_with_fp32(backbone: str):
    """Features agree in direction; no convolution or batch norm is left in fp32."""
    whole = network(backbone)
    small = quantise(whole, IMAGES)
    with torch.inference_mode():
        expected, got = (n.features(torch.from_numpy(IMAGES)) for n in (whole, small))
    likeness = torch.cosine_similarity(expected, got)
    assert likeness.median() > 0.95, "with weights that saturate it is 0.82"
    assert likeness.min() > 0.8
    assert not [m for m in small.modules() if type(m) in (nn.Conv2d, nn.BatchNorm2d)]
    assert [m for m in whole.modules() if isinstance(m, nn.Conv2d)], "the original is untouched"


def test_an_int8_artefact_can_be_served_and_is_smaller(tmp_path: Path):
    """It passes its probe alongside an fp32 one in the same process, in both orders."""
    whole = network("efficientnet_lite0")
    small = quantise(whole, IMAGES[:16])
    for name, net in (("int8", small), ("fp32", whole)):
        model = CalibratedClassifier(net, 1.0, torch.eye(1, net.head.in_features)).eval()
        torchscript.save(tmp_path / f"{name}.pt", trace_methods(model, SIDE), card(), make_probe(model, SIDE))
    answers = []
    for name in ("int8", "fp32", "int8"):
        handler = ImageClassifierHandler()
        handler.initialize(LocalContext.for_file(tmp_path / f"{name}.pt"))
        probe = handler.artifact.probe[0]
        answers.append(handler.handle([{"body": probe.data}])[0].probability)
        assert handler.explain(preprocess(probe.data, SIDE))["cat"].shape == (2, 2)
    assert answers[0] == answers[2]
    assert abs(answers[0] - answers[1]) < 0.1
    assert (tmp_path / "int8.pt").stat().st_size < 0.45 * (tmp_path / "fp32.pt").stat().st_size


def test_a_backbone_that_cannot_be_quantised_is_reported():
    """An activation that int8 has no operator for."""
    other = build(ModelConfig("tiny", "efficientnet_b0", "none", SIDE, 0.0), 2).eval()
    with pytest.raises(PipelineError, match="SiLU"):
        quantise(other, IMAGES)


def test_the_default_is_fp32():
    """Int8 must be asked for."""
    assert train_config().export.precision == "fp32"
