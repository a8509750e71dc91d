"""A review queue for tests, and photos to put into it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry

from serving.contract.answer import Answer
from serving.contract.artifact import Artifact
from serving.contract.preprocess import DecodedImage
from serving.observation import Observation
from serving.observers.review.queue import ReviewQueue
from serving.telemetry.metrics import Metrics
from tests import tiny

ARTIFACT = Artifact(tiny.card(), [], "0" * 64)


def opened(path: Path, registry: CollectorRegistry | None = None, **options: object) -> ReviewQueue:
    """An open queue."""
    usual = {"days": 30, "most_bytes": 10**9, "share": 0.0}
    queue = ReviewQueue(path / "r.db", Metrics(registry or CollectorRegistry()), **usual | options)
    queue.open()
    return queue


def pixels(seed: int) -> np.ndarray:
    """Soft noise, `u8[3,64,64]`: like no other seed's, and like itself when it is compressed."""
    noise = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), np.uint8)
    soft = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(soft).transpose(2, 0, 1)  # [3,64,64]


def jpeg(seed: int, quality: int = 90) -> bytes:
    """The same as a photo."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed).transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def seen(
    request_id: str,
    seed: int = 0,
    *,
    uncertain: bool = True,
    unfamiliar: bool | None = False,
    prediction: str = "cat",
    photo: bytes | None = None,
) -> Observation:
    """An answered photo."""
    answer = Answer(
        prediction,
        0.7,
        {"cat": 0.7, "dog": 0.3},
        uncertain=uncertain,
        unfamiliar=unfamiliar,
        feature_distance=None,
    )
    decoded = DecodedImage(pixels(seed), "JPEG", 64, 64)
    return Observation(request_id, jpeg(seed) if photo is None else photo, decoded, answer, ARTIFACT, {}, {})
