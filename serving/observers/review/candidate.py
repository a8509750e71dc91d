"""An observation, or an answer that the feedback stored, in; a candidate for the review queue out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.contract.answer import Answer
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage, Limits, preprocess
from serving.observation import Observation
from serving.observers.fingerprints import fingerprint
from serving.observers.review.schema import UNCERTAIN, UNFAMILIAR

_HASHED_SIDE: Final = 64
_QUICK: Final = Limits(max_decode_bytes=40_000_000, max_decode_seconds=0.1)
"""What is decoded a second time, if its pixels are no longer at hand, only to see what looks the same."""


@dataclass(frozen=True)
class Candidate:
    """An answered photo to keep."""

    request_id: str
    at: float
    prediction: str
    probability: float
    version: str
    sha256: str
    reasons: tuple[str, ...]
    later: bool
    """The reason was found after the answer: the photo may be kept already, for another one."""
    photo: bytes | None
    """As it was sent; without it, only a photo that is kept already gets another reason."""
    pixels: npt.NDArray[np.uint8] | None
    """`u8[3,S,S]`, if they are at hand."""

    @classmethod
    def seen(
        cls,
        observation: Observation,
        answer: Answer,
        at: float,
        reasons: tuple[str, ...],
        *,
        later: bool = False,
    ) -> Candidate:
        """A photo that was answered just now."""
        decoded, artifact = observation.decoded, observation.artifact
        return cls(
            observation.request_id,
            at,
            answer.prediction,
            answer.probability,
            artifact.card.version,
            artifact.sha256,
            reasons,
            later,
            observation.encoded,
            decoded.pixels if isinstance(decoded, DecodedImage) else None,
        )

    @property
    def at_sight(self) -> bool:
        """Whether the answer itself is a reason."""
        return UNCERTAIN in self.reasons or UNFAMILIAR in self.reasons

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        return len(self.photo or b"") + (0 if self.pixels is None else self.pixels.nbytes)

    def fingerprint(self) -> bytes | None:
        """The perceptual hash; None if the pixels are not at hand and decoding takes long."""
        if self.pixels is not None:
            return fingerprint(self.pixels)
        try:
            return fingerprint(preprocess(self.photo or b"", _HASHED_SIDE, _QUICK).pixels)
        except ImageError:
            return None


def reasons_at_sight(answer: Answer) -> tuple[str, ...]:
    """Why an answer alone makes its photo worth a look."""
    return (UNCERTAIN,) * answer.uncertain + (UNFAMILIAR,) * bool(answer.unfamiliar)
