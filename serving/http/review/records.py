"""The bodies of the requests and answers of `/review`, from which its OpenAPI description comes."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from serving.observers.review.strata import Stratum

NAME: Final = r"^[^\x00-\x1f\x7f]{1,64}$"
"""A person's name."""
Name = Annotated[str, Meta(pattern=NAME)]


class NextPhoto(msgspec.Struct, frozen=True):
    """The answer to `GET /review/next`."""

    request_id: str | None
    """Of the photo that the person sees next; null if there is none."""
    labels: list[str]
    """What may be answered: the classes of the model that serves, or of the photos that are suspects."""
    left: int
    """Photos that wait for this person."""
    given: int
    """Verdicts that this person has given."""
    seen_by_two: int
    """Photos that two people have seen."""
    kappa: float | None
    """Cohen's kappa of their verdicts; null if it is undefined."""


class VerdictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /review/verdicts`."""

    request_id: str
    reviewer: Name
    verdict: Literal["label", "neither", "cannot-tell"]
    """`neither`: the photo shows none of the classes; `cannot-tell`: the person does not know."""
    label: str | None = None
    """One of the `labels` of `GET /review/next`, with the verdict `label`."""


class Revealed(msgspec.Struct, frozen=True):
    """The answer to `POST /review/verdicts`: it is on disk, and the prediction no secret any more."""

    prediction: str
    probability: float
    model_version: str
    """Of the model that predicted."""
    reasons: list[str]
    """Why the photo was kept: uncertain, unfamiliar, shadow, told-wrong, sample, suspect."""
    filed: str | None
    """The label of a suspect, a photo of the training data; its prediction is that of the audit."""


class UndoRequest(msgspec.Struct, frozen=True):
    """The body of `POST /review/undo`."""

    reviewer: Name


class Undone(msgspec.Struct, frozen=True):
    """The answer to `POST /review/undo`."""

    request_id: str
    """Of the photo that has no verdict of this person any more."""


class Progress(msgspec.Struct, frozen=True):
    """The answer to `GET /review/progress`."""

    waiting: int
    """Photos without a verdict."""
    seen_by_two: int
    """Photos that two people have seen."""
    agreed: int
    """Those on which the first two say the same."""
    kappa: float | None
    """Cohen's kappa of these two; null if it is undefined."""
    strata: list[Stratum]
    """What the accuracy of all answers is estimated from, by model."""
