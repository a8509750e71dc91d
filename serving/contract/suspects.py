"""Photos whose label is in doubt, and what people said of them in review.

`training.study.review` hands the photos to `serving.observers.review.suspects`, which returns verdicts.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Suspect(msgspec.Struct, frozen=True):
    """A photo whose label the other photos contradict."""

    sha256: str
    """Of its bytes."""
    path: str
    """Where they are."""
    filed: str
    """The label that it has."""
    suggested: str
    """The label that the other photos suggest."""
    probability: float
    """Of the suggested label."""


class Suspects(msgspec.Struct, frozen=True):
    """The photos for review, the most suspicious first."""

    classes: list[str]
    """What a person may answer."""
    photos: list[Suspect]


class Said(msgspec.Struct, frozen=True):
    """What people said of a suspect."""

    sha256: str
    path: str
    filed: str
    verdicts: list[tuple[Literal["label", "neither", "cannot-tell"], str | None]]
    """One for each person, with the class if the verdict is `label`."""


class Reviewed(msgspec.Struct, frozen=True):
    """How far the review of the suspects is."""

    waiting: int
    """Photos that wait for a first or a second person."""
    said: list[Said]
    """Those that have a verdict."""
