"""Distributions of photos and answers that are normal, and how far a window of recent ones is from them.

`training.export` counts validation photos, or others that represent production, into a `Reference`, which the
artefact's card carries; `evaluation.service.reference` makes one of a service's window, which lies next to
the artefact. `serving.telemetry.drift` counts the service's latest answers into the same bins and compares
the two. It needs no labels. `DriftReport` is the answer to `GET /drift`, `WindowReport` to `GET
/drift/window`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

_SAMPLES: Final = 255.0
_EVERY: Final = 8  # take every 8th row and column: enough for a mean, at a tenth of the event loop's time
_BINS: Final = 10
CONFIDENCE: Final = "confidence"
PREDICTION: Final = "prediction"
_FEW: Final = 5  # expected photos per bin that the chi-square approximation needs (Cochran 1954)
ALARM_Z: Final = 6.0
"""Standard normal deviate above which a difference is not chance, over many windows and quantities."""
ALARM_DISTANCE: Final = 0.15
"""Jensen-Shannon distance above which a difference is large enough to look into."""
LEAST_PHOTOS: Final = 100
"""Fewest photos for which a window is judged, and fewest of production that make a reference."""


class Counts(msgspec.Struct, frozen=True):
    """How often a quantity fell into each bin."""

    edges: list[float]
    """Inner edges, ascending; a value on an edge belongs to the bin above it."""
    counts: list[int]
    """Photos per bin, with one bin more than there are edges."""


class Reference(msgspec.Struct, frozen=True):
    """Distributions of photos and of the model's answers to them."""

    photos: int
    """Number of photos counted."""
    quantities: dict[str, Counts]
    """Counts by name of the quantity, see `measure`."""
    source: str = "validation"
    """Which photos these are, in words."""


class StoredReference(msgspec.Struct, frozen=True):
    """A reference next to an artefact: it replaces the one in the card of exactly that file."""

    artifact_sha256: str
    """Of the artefact that answered to these photos."""
    reference: Reference
    """The distributions."""


class Drift(msgspec.Struct, frozen=True):
    """How far one quantity of a window is from the reference."""

    distance: float
    """Jensen-Shannon distance with logarithms to base 2: 0 identical, 1 nothing in common (Lin 1991)."""
    z: float
    """Two-sample chi-square test, as a standard normal deviate (Wilson and Hilferty 1931)."""
    photos: int
    """Photos in the window."""


def alarms(distance: float | None, z: float | None) -> bool:
    """Whether a quantity has drifted: significantly, and by much. The alert rules have the same limits."""
    return distance is not None and z is not None and distance > ALARM_DISTANCE and z > ALARM_Z


class QuantityReport(msgspec.Struct, frozen=True):
    """One quantity of the window alongside the reference."""

    edges: list[float]
    """Inner edges of the bins, as in `Counts`."""
    reference: list[int]
    """Photos of the reference per bin."""
    window: list[int]
    """Photos of the window per bin."""
    distance: float | None
    """As in `Drift`; null while the window has no photo with this quantity."""
    z: float | None
    """As in `Drift`; null while `distance` is."""


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /drift`; without a reference, only `photos` (0) and `quantities` (empty)."""

    photos: int
    """Photos in the window."""
    size: int | UnsetType = UNSET
    """Photos that the window can hold."""
    reference_photos: int | UnsetType = UNSET
    """Photos in the reference."""
    reference_source: str | UnsetType = UNSET
    """Which photos these are."""
    estimated_accuracy: float | UnsetType | None = UNSET
    """Mean confidence: the share of right answers while the calibration holds; null for an empty window."""
    estimated_accuracy_error: float | UnsetType | None = UNSET
    """Half of its 95 % interval: how far chance moves the share of right answers in this window."""
    quantities: dict[str, QuantityReport]


class WindowReport(msgspec.Struct, frozen=True):
    """The answer to `GET /drift/window`: what the latest photos measure, one by one, without the photos."""

    artifact_sha256: str
    """Of the model that answered; empty while there is none."""
    quantities: dict[str, list[float]]
    """A value per photo by name of the quantity, oldest first."""


def measure(
    pixels: npt.NDArray[np.uint8],
    width: int,
    height: int,
    probabilities: Sequence[float],
    distance: float | None,
) -> dict[str, float]:
    """The quantities of one photo and its answer.

    Args:
        pixels: `u8[3,S,S]`, as the network sees it.
        width: Width of the photo as displayed, in pixels.
        height: Height of the photo as displayed, in pixels.
        probabilities: One per class.
        distance: Feature distance from the training photos, if the artefact reports it.
    """
    some = pixels[:, ::_EVERY, ::_EVERY].astype(np.float32) / _SAMPLES
    green = pixels[1, ::_EVERY].astype(np.float32) / _SAMPLES
    best = int(np.argmax(probabilities))
    values = {
        "brightness": float(some.mean()),
        "contrast": float(some.std()),
        "saturation": float((some.max(0) - some.min(0)).mean()),
        "sharpness": float(np.abs(np.diff(green, axis=1)).mean()),
        "longest_side": float(max(width, height)),
        "aspect": width / height,
        CONFIDENCE: float(probabilities[best]),
        PREDICTION: float(best),
    }
    return values if distance is None else values | {"feature_distance": distance}


def make_reference(
    photos: Sequence[Mapping[str, float]], classes: int, source: str = "validation"
) -> Reference:
    """Count photos into bins that each hold about a tenth of them (predictions: one bin per class).

    A value that a tenth of the photos share, such as one width for all, has a bin of its own, and so have
    values below and above all of these photos.

    Args:
        photos: Quantities of each photo, see `measure`.
        classes: Of the model.
        source: Which photos these are, in words.
    """
    quantities = {}
    for name in photos[0]:
        values = np.array([photo[name] for photo in photos])
        edges = [k - 0.5 for k in range(1, classes)] if name == PREDICTION else _edges(values)
        quantities[name] = Counts(edges, _count(edges, values))
    return Reference(len(photos), quantities, source)


def _edges(values: npt.NDArray[np.float64]) -> list[float]:
    distinct, counts = np.unique(values, return_counts=True)
    alone = distinct[counts >= len(values) / _BINS]
    edges = [
        *np.quantile(values, np.arange(1, _BINS) / _BINS),
        *alone, *np.nextafter(alone, np.inf),
        distinct[0], np.nextafter(distinct[-1], np.inf),
    ]  # fmt: skip
    return [float(edge) for edge in np.unique(edges)]


def _count(edges: Sequence[float], values: npt.NDArray[np.float64]) -> list[int]:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return [int(count) for count in counts]


def compare(reference: Sequence[int], window: Sequence[int]) -> Drift:
    """Distance and test between two histograms over the same bins."""
    then, now = np.array(reference, np.float64), np.array(window, np.float64)
    return Drift(
        _jensen_shannon(then / then.sum(), now / now.sum()), _chi_square_z(then, now), int(now.sum())
    )


def drifts(reference: Reference, photos: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Drift]:
    """Distance and test by quantity.

    Args:
        reference: What the photos are compared with.
        photos: `f64[N]` by name of the quantity.
    """
    return {
        name: compare(known.counts, _count(known.edges, photos[name]))
        for name, known in reference.quantities.items()
    }


def _jensen_shannon(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    middle = (p + q) / 2

    def information(of: npt.NDArray[np.float64]) -> float:
        some = of > 0
        return float((of[some] * np.log2(of[some] / middle[some])).sum())

    return math.sqrt(max(0.0, (information(p) + information(q)) / 2))


def _chi_square_z(then: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> float:
    """Test two samples; neighbouring bins are merged until each expects enough photos of the window."""
    rows = np.stack((then, now), 1)  # [bins,2]
    share = now.sum() / rows.sum()
    joined: list[npt.NDArray[np.float64]] = []
    pair = np.zeros(2)
    for row in rows:
        pair = pair + row
        if pair.sum() * share >= _FEW:
            joined.append(pair)
            pair = np.zeros(2)
    freedom = len(joined) - 1
    if freedom < 1:
        return 0.0
    joined[-1] = joined[-1] + pair
    table = np.array(joined)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
