"""One computed photo, and the protocol of whoever wants to know of it.

`serving.http.predict` makes an `Observation` of each photo that the engine computed, answered or refused, and
`serving.service` lists the observers that it is handed to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import structlog

from serving.contract.answer import Answer, Refusal
from serving.contract.artifact import Artifact
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage
from serving.contract.reference import measure


@dataclass(frozen=True)
class Observation:
    """One photo that was computed, with all that was learnt about it."""

    request_id: str
    encoded: bytes
    """The photo as it was sent."""
    decoded: DecodedImage | ImageError
    """Its pixels `u8[3,S,S]`, or why there are none."""
    answer: Answer | Refusal
    artifact: Artifact
    """Of the model that answered: after a reload, perhaps not the present one."""
    seconds: Mapping[str, float]
    """Duration by stage: queue, decode, infer."""

    @cached_property
    def quantities(self) -> Mapping[str, float]:
        """What the photo and its answer are like, see `measure`; empty if the photo was refused."""
        if not isinstance(self.decoded, DecodedImage) or not isinstance(self.answer, Answer):
            return {}
        return measure(
            self.decoded.pixels,
            self.decoded.width,
            self.decoded.height,
            list(self.answer.probabilities.values()),
            self.answer.feature_distance,
        )


class Observer(Protocol):
    """Whoever is handed each observation."""

    def observe(self, observation: Observation) -> None:
        """Take note of one photo. It runs on the event loop, before the answer leaves: never wait here."""


def notify(observers: Iterable[Observer], observation: Observation) -> None:
    """Hand `observation` to each observer; one that raises is logged and changes nothing for the others."""
    for observer in observers:
        try:
            observer.observe(observation)
        except Exception:  # noqa: BLE001 (an observer's fault is not the caller's)
            structlog.get_logger().exception(
                "an observer failed", observer=type(observer).__name__, request_id=observation.request_id
            )
