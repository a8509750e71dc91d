"""One computed photo, and the protocol of its observers.

`serving.http.predict` makes an `Observation` of each photo that the engine computed, answered or refused.
`serving.service` lists the observers that receive it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from serving.contract.answer import Answer, Refusal
from serving.contract.artifact import Artifact
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage
from serving.contract.reference import measure


@dataclass(frozen=True)
class Observation:
    """One computed photo, with everything known about it."""

    request_id: str
    encoded: bytes
    """The photo as it was sent."""
    decoded: DecodedImage | ImageError
    """Its pixels `u8[3,S,S]`, or the error that replaces them."""
    answer: Answer | Refusal
    artifact: Artifact
    """The model that answered; after a reload, not necessarily the current one."""
    seconds: Mapping[str, float]
    """Duration by stage: queue, decode, infer."""
    quantities: Mapping[str, float]
    """Measurements of the photo and its answer, as `measure_photo` has them."""


def measure_photo(decoded: DecodedImage | ImageError, answer: Answer | Refusal) -> Mapping[str, float]:
    """What drift is measured by, see `serving.contract.reference`; empty if the photo was refused."""
    if not isinstance(decoded, DecodedImage) or not isinstance(answer, Answer):
        return {}
    return measure(
        decoded.pixels,
        decoded.width,
        decoded.height,
        list(answer.probabilities.values()),
        answer.feature_distance,
    )


class Observer(Protocol):
    """Receives each observation."""

    def observe(self, observation: Observation) -> None:
        """Record one photo. It runs on the event loop before the answer is sent, so it must never block."""


def notify(observers: Iterable[Observer], observation: Observation) -> None:
    """Pass `observation` to each observer; one that raises is logged and does not affect the others."""
    for observer in observers:
        try:
            observer.observe(observation)
        except Exception:  # noqa: BLE001 (an observer's error must not reach the client)
            structlog.get_logger().exception(
                "an observer failed", observer=type(observer).__name__, request_id=observation.request_id
            )
