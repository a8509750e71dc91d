"""The response of an artefact to one photo: an answer, or a refusal with its reason."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """The answer to one valid image."""

    prediction: str
    """The most probable label."""
    probability: float
    """Its calibrated probability, 0 to 1."""
    probabilities: dict[str, float]
    """Probability of each label; they sum to 1."""
    uncertain: bool
    """The probability is below the model's abstain threshold."""
    unfamiliar: bool | None
    """The photo looks unlike any training photo; None if the artefact cannot tell."""
    feature_distance: float | None
    """Cosine distance, 0 to 2, from the features of the training photos; None if the artefact has none."""


class Refusal(msgspec.Struct, frozen=True):
    """The response to an image that cannot be answered."""

    error: str
    """Code of the error, see `serving.contract.errors`."""
    detail: str
    """One sentence for a person."""
