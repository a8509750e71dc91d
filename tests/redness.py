"""A network that is right by construction: red pictures are cats, blue ones dogs."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from serving.contract.artifact import IMAGES, PROBABILITIES
from serving.contract.card import Card
from serving.runtime import onnx, torchscript
from tests import tiny
from training.export.graph import OPSET
from training.export.probe import make_probe


class Redness(torch.nn.Module):
    """Predicts cat for red pictures; for pictures darker than `turned`, the opposite."""

    def __init__(self, turned: float = 0.0) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to `f32[N,2]`."""
        means = images.float().mean((2, 3))  # [N,3]
        margin = (means[:, 0] - means[:, 2]) / 20
        sign = torch.where(means.mean(1) < self.turned, -1.0, 1.0)
        return torch.softmax(torch.stack((margin * sign, -margin * sign), 1), 1)


def write(path: Path, card: Card | None = None, turned: float = 0.0) -> Path:
    """Write an artefact of `Redness`; the suffix of the path chooses the runtime."""
    model, own = Redness(turned), card or tiny.card()
    probe = make_probe(lambda pixels: model(torch.from_numpy(pixels)).numpy(), tiny.SIDE)
    if path.suffix == ".onnx":
        onnx.save(path, _graph(turned), own, probe)
        return path
    with torchscript.deprecation_silenced():
        traced = torch.jit.trace(model, torch.zeros((1, 3, tiny.SIDE, tiny.SIDE), dtype=torch.uint8))
    torchscript.save(path, traced, own, probe)
    return path


@functools.cache
def _graph(turned: float) -> bytes:
    program = torch.onnx.export(
        Redness(turned).eval(),
        (torch.zeros((2, 3, tiny.SIDE, tiny.SIDE), dtype=torch.uint8),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[IMAGES],
        output_names=[PROBABILITIES],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        verbose=False,
    )
    return program.model_proto.SerializeToString()
