"""Photos in, their drift quantities out; the drift reference in the card counts them."""

from __future__ import annotations

from pathlib import Path

import torch

from common.cores import map_on_cores
from common.errors import PipelineError
from serving.contract import reference
from serving.contract.errors import ImageError
from serving.contract.preprocess import preprocess
from serving.runtime import torchscript


def measure(traced: torch.jit.ScriptModule, photos: list[Path], size: int) -> list[dict[str, float]]:
    """The quantities of `serving.contract.reference` for each photo, measured as in the service.

    Raises:
        PipelineError: a photo is refused.
    """

    def one(path: Path) -> dict[str, float]:
        try:
            image = preprocess(path.read_bytes(), size)
        except ImageError as error:
            raise PipelineError(f"{path}: {error.detail} Remove this photo.") from error
        with torch.inference_mode():
            probabilities, distance = fused.observe(torch.from_numpy(image.pixels)[None])
        return reference.measure(
            image.pixels, image.width, image.height, probabilities[0].tolist(), float(distance)
        )

    with torchscript.fusing(traced) as fused:
        return map_on_cores(one, photos, "drift reference", initializer=torchscript.one_thread)
