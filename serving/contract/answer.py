"""What an artefact says of one photo: an answer, or a refusal with its reason."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """The answer to one good image."""

    prediction: str
    """The most probable label."""
    probability: float
    """Its calibrated probability, 0 to 1."""
    probabilities: dict[str, float]
    """Probability of each label; they sum to 1."""
    uncertain: bool
    """The probability is below the model's abstain threshold."""
    unfamiliar: bool | None
    """The photo looks like nothing in the training photos; None where the artefact cannot tell."""
    feature_distance: float | None
    """How far its features are from all of theirs, 0 to 2 (a cosine's); None likewise."""


class Refusal(msgspec.Struct, frozen=True):
    """The answer to one bad image."""

    error: str
    """Code of the fault, see `serving.contract.errors`."""
    detail: str
    """One sentence for a person."""
