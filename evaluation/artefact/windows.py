"""Streams of observed photos judged by the drift rule, for `shifts`: false alarms, and photos until an alarm.

Each run draws a reference, a window and a stream without replacement, so that no photo is in two of them:
windows of photos that made the reference, or the same photo twice, would hide false alarms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.artefact.results import Detection, FalseAlarms
from evaluation.figures import intervals
from serving.contract.answer import Answer
from serving.contract.reference import (
    CONFIDENCE,
    LEAST_PHOTOS,
    PREDICTION,
    Reference,
    alarms,
    compare,
    drifts,
    make_reference,
)

Quantities = dict[str, float]
WINDOW: Final = 1000
"""Photos in a full window, as `SERVING_DRIFT_WINDOW` has it."""
EVERY: Final = 25
"""Photos between two looks."""
HELD: Final = 6
"""Looks for which the rule must hold to alert: 15 minutes at ten photos per minute."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One photo, measured as in the service."""

    quantities: Quantities
    """As `serving.contract.reference.measure` gives them."""
    answer: Answer
    """The handler's."""
    right: bool
    """Whether the prediction is the photo's label."""


def drifted(
    reference: Reference, stream: list[Quantities], full: int, first: int
) -> dict[str, intervals.Flags]:
    """Whether the rule holds for each quantity at each look, `b[L]`.

    Args:
        reference: What the window is compared with.
        stream: Photos in order of arrival.
        full: Photos in a full window.
        first: Photos before the first look; the others come after `EVERY` photos each.
    """
    looks = range(first, len(stream) + 1, EVERY)
    held = {}
    for name, known in reference.quantities.items():
        number = np.searchsorted(known.edges, [photo[name] for photo in stream], side="right")
        arrived = np.concatenate(
            [
                np.zeros((1, len(known.counts)), int),
                np.cumsum(np.eye(len(known.counts), dtype=int)[number], 0),
            ]
        )
        found = [
            compare(known.counts, (arrived[end] - arrived[max(0, end - full)]).tolist()) for end in looks
        ]
        held[name] = np.array([alarms(drift.distance, drift.z) for drift in found])
    return held


def false_alarms(
    pool: list[Quantities], classes: int, of_reference: int, runs: int, random: np.random.Generator
) -> FalseAlarms:
    """Judge streams of the pool's photos, each against a reference of other photos of the pool."""
    looks, names = [], list(pool[0])
    alarmed = dict.fromkeys(names, 0)
    alerts = 0
    for _ in range(runs):
        order = random.permutation(len(pool))
        reference = make_reference([pool[i] for i in order[:of_reference]], classes)
        held = drifted(reference, [pool[i] for i in order[of_reference:]], WINDOW, LEAST_PHOTOS)
        for name in names:
            alarmed[name] += bool(held[name].any())
        family = np.any(list(held.values()), axis=0)
        looks.append(family)
        alerts += any(_longest(flags) >= HELD for flags in held.values())
    every = np.array(looks)
    return FalseAlarms(
        photos=len(pool) - of_reference,
        per_look=intervals.share_of_clusters(every),
        per_run=intervals.wilson(int(every.any(1).sum()), runs),
        alerts_per_run=intervals.wilson(alerts, runs),
        by_quantity={name: intervals.wilson(count, runs) for name, count in alarmed.items()},
    )


def _longest(flags: Iterable[bool]) -> int:
    """Length of the longest row of true flags."""
    longest = length = 0
    for flag in flags:
        length = length + 1 if flag else 0
        longest = max(longest, length)
    return longest


def detection(
    pool: list[Quantities],
    changed: list[Quantities],
    classes: int,
    of_reference: int,
    runs: int,
    random: np.random.Generator,
) -> Detection:
    """Let changed photos arrive in a full window of the pool's, until the rule holds for a quantity."""
    needed = []
    before = min(WINDOW, len(pool) - of_reference)
    for _ in range(runs):
        order = random.permutation(len(pool))[: of_reference + before]
        reference = make_reference([pool[i] for i in order[:of_reference]], classes)
        stream = [pool[i] for i in order[of_reference:]]
        stream += [changed[i] for i in random.permutation(len(changed))]
        family = np.any(list(drifted(reference, stream, before, before + EVERY).values()), axis=0)
        needed.append(EVERY * (int(family.argmax()) + 1) if family.any() else np.inf)
    low, median, high = (_finite(value) for value in np.quantile(needed, (0.05, 0.5, 0.95), method="higher"))
    return Detection(median, low, high, intervals.wilson(int(np.isfinite(needed).sum()), runs))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def moved(photos: list[Quantities], name: str, classes: int) -> list[Quantities]:
    """The photos with one quantity moved by its standard deviation; the prediction to the last class.

    All move up but the confidence, which no service sends above 1: it moves down, to 1 / `classes` at most.
    """
    if name == PREDICTION:
        return [photo | {name: classes - 1.0} for photo in photos]
    spread = float(np.std([photo[name] for photo in photos]))
    if name == CONFIDENCE:
        return [photo | {name: max(photo[name] - spread, 1 / classes)} for photo in photos]
    return [photo | {name: photo[name] + spread} for photo in photos]


def distances(reference: Reference, photos: list[Quantities]) -> dict[str, float]:
    """The distance of all photos from the reference, by quantity."""
    values = {name: np.array([photo[name] for photo in photos]) for name in reference.quantities}
    return {name: found.distance for name, found in drifts(reference, values).items()}
