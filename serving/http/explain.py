"""`POST /explain`: one photo in, a PNG of it overlaid with the predicted class's activation map out.

Maps are computed in the engine's second lane, so that no prediction queues behind one.
"""

from __future__ import annotations

import io
from typing import Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from litestar import Response, post
from PIL import Image

from serving.contract.errors import NotExplainable
from serving.contract.preprocess import DecodedImage
from serving.http import problems
from serving.http.answers import log_answer, log_refusal, server_timing, stages_ms
from serving.http.authorisation import require_key
from serving.http.openapi import KEY, UploadOperation
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling
from serving.runtime.handler import Batch, ImageClassifierHandler

_SECONDS: Final = 0.15  # the unfused network, once more the fused one, and the picture
_MEMORY_BYTES: Final = 32 * 1024 * 1024
_PLAIN: Final = " !#$&'()*+,/:;<=>?@[]^`{|}~\""  # of ASCII, all but "%" and what ends a header
_SIDE: Final = 448  # longest side of the picture, in pixels
_OPACITY: Final = 0.55
_WARM: Final = np.array((213, 94, 0), np.float32)  # supports the answer: Okabe and Ito's vermilion
_COLD: Final = np.array((0, 114, 178), np.float32)  # speaks against it: their blue


def _refuse(request: ServiceRequest, error: Exception) -> Response[Problem]:
    """Count, log and answer a request that ended in `error`."""
    code = problems.code_of(error)
    request.service.metrics.explanations.labels(code).inc()
    log_refusal(request, error)
    return problems.response(error, request.id)


@post(
    "/explain",
    status_code=200,
    media_type="image/png",
    response_description="The heat map.",
    guards=[require_key],
    exception_handlers=handling(Exception, _refuse),
    operation_class=UploadOperation,
    operation_id="explain",
    security=KEY,
    responses=problems.documented((400, 401, 408, 413, 415, 422, 500, 501, 503, 504)),
)
async def explain(request: ServiceRequest) -> Response[bytes]:
    """A PNG of the photo: vermilion where it supports the answer, blue where it speaks against it."""
    service = request.service
    photo, arrived = await request.photo()
    handler = service.models.handler
    work = service.engine.compute(
        photo,
        arrived,
        lambda image: _explain(handler, image),
        seconds=_SECONDS,
        memory_bytes=_MEMORY_BYTES,
    )
    (label, picture), seconds = await request.while_connected(work)
    service.metrics.explanations.labels("ok").inc()
    service.metrics.explanation.observe(service.clock() - arrived)
    log_answer(request, "explained", prediction=label, **stages_ms(seconds))
    headers = {"X-Prediction": quote(label, safe=_PLAIN), "Server-Timing": server_timing(seconds)}
    return Response(picture, media_type="image/png", headers=headers)


def _explain(handler: ImageClassifierHandler, image: DecodedImage) -> tuple[str, bytes]:
    """The predicted label, and the PNG of its map over the photo."""
    maps = handler.explain(image)
    if maps is None:
        raise NotExplainable("This model has no activation maps. It still answers /predict.")
    batch = handler.inference(Batch([image], image.pixels[None]))
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
    Image.fromarray(blended.round().astype(np.uint8)).save(out, "PNG", compress_level=1)
    return out.getvalue()
