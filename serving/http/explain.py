"""`POST /explain`: one photo in, a PNG of it overlaid with the predicted class's activation map out.

Maps are computed one at a time and outside the engine, so that no prediction queues behind one.
"""

from __future__ import annotations

import asyncio
import io
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from litestar import Response, post
from PIL import Image

from serving.contract.errors import NotExplainable, Overloaded
from serving.contract.preprocess import preprocess
from serving.http import problems
from serving.http.authorisation import require_key
from serving.http.request import ServiceRequest
from serving.http.upload import UploadOperation
from serving.runtime import torchscript
from serving.runtime.handler import Batch, ImageClassifierHandler

_MOST_WAITING: Final = 8
_SIDE: Final = 448  # longest side of the picture, in pixels
_OPACITY: Final = 0.55
_WARM: Final = np.array((213, 94, 0), np.float32)  # supports the answer: Okabe and Ito's vermilion
_COLD: Final = np.array((0, 114, 178), np.float32)  # speaks against it: their blue


@post(
    "/explain",
    status_code=200,
    media_type="image/png",
    response_description="The heat map.",
    guards=[require_key],
    operation_class=UploadOperation,
    responses=problems.documented((400, 401, 408, 413, 415, 422, 500, 501, 503)),
)
async def explain(request: ServiceRequest) -> Response[bytes]:
    """A PNG of the photo: vermilion where it supports the answer, blue where it speaks against it."""
    encoded, _ = await request.photo()
    explainer: Explainer = request.app.state.explainer
    label, picture = await explainer.explain(request.service.models.handler, encoded)
    return Response(picture, media_type="image/png", headers={"X-Prediction": label})


class Explainer:
    """Compute heat maps one after another; refuse when too many are waiting."""

    def __init__(self) -> None:
        self._one, self._waiting = asyncio.Semaphore(1), 0

    async def explain(self, handler: ImageClassifierHandler, body: bytes) -> tuple[str, bytes]:
        """The predicted label, and the PNG of its map over the photo.

        Raises:
            ImageError: the bytes are not an accepted image.
            NotExplainable: the artefact has no activation maps.
            Overloaded: too many are waiting.
        """
        if self._waiting >= _MOST_WAITING:
            raise Overloaded(
                f"{self._waiting} heat maps are waiting. Retry later.",
                retry_after_seconds=1,
                reason="queue-full",
            )
        self._waiting += 1
        try:
            async with self._one:
                return await asyncio.to_thread(_explain, handler, body)
        finally:
            self._waiting -= 1


def _explain(handler: ImageClassifierHandler, body: bytes) -> tuple[str, bytes]:
    torchscript.one_thread()  # leaves the other cores to predictions
    image = preprocess(body, handler.artifact.card.input_size, handler.limits)
    maps = handler.explain(image)
    if maps is None:
        raise NotExplainable("This model has no activation maps. It still answers /predict.")
    batch = handler.inference(Batch([image], torch.from_numpy(image.pixels)[None]))
    label = handler.artifact.card.labels[int(batch.probabilities[0].argmax())]
    return label, draw(image.pixels, image.width, image.height, maps[label])


def draw(pixels: npt.NDArray[np.uint8], width: int, height: int, heat: npt.NDArray[np.float32]) -> bytes:
    """The photo in its own proportions, vermilion where it supports the class, blue where it speaks against.

    Args:
        pixels: `u8[3,S,S]`.
        width: Width of the photo as displayed, in pixels; only its ratio to `height` counts.
        height: Height of the photo as displayed, in pixels.
        heat: `f32[h,w]`, above 0 where the photo supports the class.
    """
    scale = _SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = Image.fromarray(pixels.transpose(1, 2, 0)).resize(size, Image.Resampling.BICUBIC)
    strongest = float(np.abs(heat).max()) or 1.0
    smooth = Image.fromarray(heat / strongest).resize(size, Image.Resampling.BICUBIC)
    weight = np.clip(np.asarray(smooth), -1, 1)[..., None]  # [height,width,1]
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    colour = np.where(weight > 0, _WARM, _COLD)
    share = _OPACITY * np.abs(weight)
    blended = (1 - share) * grey + share * colour
    out = io.BytesIO()
    Image.fromarray(blended.round().astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
