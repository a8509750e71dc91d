"""The calibrated network in, an equivalent TorchScript module with the artefact's methods out."""

from __future__ import annotations

import warnings
from typing import Any, Final, cast

import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from common.errors import PipelineError
from serving.contract import artifact
from serving.runtime import torchscript
from training.export.calibrate import CalibratedClassifier
from training.network.maps import pools_its_maps

_TOLERANCE: Final = 1e-4


def trace_methods(model: CalibratedClassifier, size: int) -> torch.jit.ScriptModule:
    """Trace the artefact's methods on `u8[1,3,S,S]`; the batch axis stays free.

    `explain` is left out where the features are not the pooled feature maps: the maps would not add up
    to the logit.
    """
    images = torch.zeros((1, 3, size, size), dtype=torch.uint8)
    methods = {"forward": images, artifact.OBSERVE: images}
    with torchscript.deprecation_silenced(), torch.no_grad():
        warnings.filterwarnings("ignore", category=TracerWarning)
        if pools_its_maps(model.network, images):
            methods[artifact.EXPLAIN] = images
        else:
            print("explain is left out: the features of this backbone are not the mean of its feature maps")
        traced: torch.jit.ScriptModule = torch.jit.trace_module(model, methods)  # type: ignore[no-untyped-call]
    return traced


def check_equal(eager: torch.nn.Module, traced: torch.nn.Module, size: int) -> None:
    """Compare the traced module with the eager one, on a batch size it was not traced with.

    Raises:
        PipelineError: a probability differs by more than 1e-4.
    """
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = eager(images)
        observed, _ = cast("Any", traced).observe(images)
        answers = (traced(images), observed)
        difference = max(float((expected - answer).abs().max()) for answer in answers)
    if not difference <= _TOLERANCE:
        raise PipelineError(
            f"The TorchScript model differs from the eager one by {difference:.2e} in a probability "
            f"(allowed: {_TOLERANCE}): tracing cannot follow the backbone. Choose another model.backbone."
        )
