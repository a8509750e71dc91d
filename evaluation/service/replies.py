"""Replies of a running service: its health, and one reply per labelled photo. `client` collects them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from common.errors import UserError
from evaluation.figures.intervals import Figure, Floats, Ints


class LiveError(UserError):
    """The evaluation cannot be run; the text names the cause and the next step."""


class Health(msgspec.Struct, frozen=True):
    """The body of `/health`."""

    model: dict[str, str] = {}
    """Name, version and sha256 of the model that is served."""
    deployment: str = ""
    """Name of the deployment."""
    metrics: dict[str, Figure] = {}
    """The model's figures on the split `measured_on`."""
    measured_on: str = "test"
    """`test` for a released model, else `validation`."""
    reason: str = ""
    """Why the service is not ready."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one photo."""

    path: Path
    label: str
    """The photo's class."""
    probabilities: dict[str, float] | None
    """By label; None without a prediction."""
    error: str
    """Empty, or the problem's type, or the kind of connection failure."""
    milliseconds: float
    """From sending to the complete response, of the last attempt."""
    attempts: int
    """Requests sent, at least 1."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """By stage of the service, from `Server-Timing`."""


def with_prediction(replies: list[Reply]) -> list[Reply]:
    """The replies that have a prediction."""
    return [reply for reply in replies if reply.probabilities is not None]


def as_arrays(answered: list[Reply]) -> tuple[list[str], Floats, Ints]:
    """Labels, probabilities `f64[N,K]` and targets `i64[N]` of replies with a prediction.

    Raises:
        LiveError: a photo is labelled as a class that the service does not know.
    """
    labels = sorted(answered[0].probabilities or {})
    unknown = sorted({reply.label for reply in answered} - set(labels))
    if unknown:
        raise LiveError(
            f"A photo is labelled {unknown[0]!r}, but the service's classes are {', '.join(labels)}. "
            "Rename the folder, or correct the label in the CSV."
        )
    rows = [[(reply.probabilities or {})[label] for label in labels] for reply in answered]
    return labels, np.array(rows), np.array([labels.index(reply.label) for reply in answered])


def stages_ms(answered: list[Reply]) -> dict[str, list[float]]:
    """Milliseconds of each photo by stage of the service, in the stages' order."""
    names = dict.fromkeys(name for reply in answered for name in reply.stages_ms)
    return {name: [r.stages_ms[name] for r in answered if name in r.stages_ms] for name in names}
