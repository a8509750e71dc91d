"""Photos in, their drift quantities out; the drift reference in the card counts them."""

from __future__ import annotations

from pathlib import Path

from common.cores import map_on_cores
from common.errors import PipelineError
from serving.contract import reference
from serving.contract.errors import ImageError
from serving.contract.preprocess import preprocess
from serving.runtime.network import Network


def measure(network: Network, photos: list[Path], size: int) -> list[dict[str, float]]:
    """The quantities of `serving.contract.reference` for each photo, measured as in the service.

    Raises:
        PipelineError: a photo is refused.
    """

    def one(path: Path) -> dict[str, float]:
        try:
            image = preprocess(path.read_bytes(), size)
        except ImageError as error:
            raise PipelineError(f"{path}: {error.detail} Remove this photo.") from error
        probabilities, distances = network.run(image.pixels[None])
        distance = None if distances is None else float(distances[0])
        return reference.measure(image.pixels, image.width, image.height, probabilities[0].tolist(), distance)

    return map_on_cores(one, photos, "drift reference")
