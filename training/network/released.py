"""An artefact of this project in, the weights of its network out: `model.weights` may name one.

The file is loaded as it is for serving, by TorchScript: it runs no other code than it does in a service.
`training.network.build` puts the weights into the configured backbone.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from common.errors import PipelineError
from serving.contract.artifact import CARD, Artifact
from serving.contract.preprocess import preprocess
from serving.runtime import torchscript

_NETWORK: Final = "network."
"""Below it the artefact has the state of what was trained."""
_EPSILON: Final = 7
"""Place of epsilon among the inputs of `aten::batch_norm`."""
_DECIMALS: Final = 7
"""Of mean and deviation, which the artefact has in single precision."""


class OtherNetwork(PipelineError):
    """The artefact is of another architecture than the configured one."""


@dataclass(frozen=True, slots=True)
class Released:
    """A network that was trained and exported."""

    artefact: Artifact
    state: dict[str, torch.Tensor]
    """Of the `Classifier`, with its head."""
    mean: tuple[float, ...]
    """Of each channel, in the range 0..1."""
    std: tuple[float, ...]
    """Deviation of each channel, likewise."""
    epsilons: set[float]
    """Of its batch norms."""
    images: torch.Tensor
    """`u8[N,3,S,S]`: the pictures of its probe."""
    log_probabilities: torch.Tensor
    """`f32[N,K]`: its answers to them."""


def is_artefact(path: Path) -> bool:
    """Whether the file is an artefact in TorchScript; a `.pth` file is a zip too, but has no card."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f"/extra/{CARD}") for name in archive.namelist())


def read(path: Path) -> Released:
    """Read the network of the artefact at `path`.

    Raises:
        ArtifactError: the file is damaged, or of another schema.
        OtherNetwork: no training of this project exported it.
    """
    module, artefact = torchscript.load(path)
    state = {
        name.removeprefix(_NETWORK): tensor
        for name, tensor in module.state_dict().items()
        if name.startswith(_NETWORK)
    }
    try:
        mean, std = (_shares(state.pop(name)) for name in ("mean", "std"))
    except KeyError as error:
        raise OtherNetwork(f"{path} was not exported by this project: it has no {error}.") from error
    graph: Any = module.inlined_graph  # its nodes live as long as it does
    pictures = [preprocess(picture.data, artefact.card.input_size).pixels for picture in artefact.probe]
    images = torch.from_numpy(np.stack(pictures))
    with torch.inference_mode():
        answers = log(module(images))
    norms = graph.findAllNodes("aten::batch_norm")
    epsilons = {norm.inputsAt(_EPSILON).toIValue() for norm in norms}
    return Released(artefact, state, mean, std, epsilons, images, answers)


def log(probabilities: torch.Tensor) -> torch.Tensor:
    """Logarithms that are finite at a probability of 0."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _shares(buffer: torch.Tensor) -> tuple[float, ...]:
    """A `Design`'s values from those of pixels in 0..255."""
    return tuple(round(value / 255, _DECIMALS) for value in buffer.flatten().double().tolist())
