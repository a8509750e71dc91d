"""Windows of observed photos compared with a reference, for `shifts`: how many raise the drift alarm."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from evaluation.artefact.results import Shift, Strongest
from evaluation.figures import intervals
from evaluation.service.drift import alarms
from serving.contract.answer import Answer
from serving.contract.reference import Drift, Reference, compare

SIZES: Final = (25, 50, 100, 200, 500, 1000)
"""Photos in a window."""
_DETECTED: Final = 0.95
"""Share of windows that must raise the alarm for a size to suffice."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One photo, measured as in the service."""

    quantities: dict[str, float]
    """As `serving.contract.reference.measure` gives them."""
    answer: Answer
    """The handler's."""
    right: bool
    """Whether the prediction is the photo's label."""


class Windows:
    """Photos of one kind, from which windows are drawn and compared with a reference."""

    def __init__(self, photos: list[Observed], reference: Reference) -> None:
        self._photos, self._reference = photos, reference
        self._bins = {
            name: np.searchsorted(known.edges, [photo.quantities[name] for photo in photos], side="right")
            for name, known in reference.quantities.items()
        }

    def measure(self, windows: int, random: np.random.Generator) -> Shift:
        """Draw `windows` windows of each size."""
        n = len(self._photos)
        shares: dict[str, float] = {}
        alarmed: list[list[str]] = []
        for size in SIZES:
            alarmed = [self._alarmed(random.integers(0, n, size)) for _ in range(windows)]
            shares[str(size)] = sum(map(bool, alarmed)) / windows
        often = Counter(itertools.chain.from_iterable(alarmed))
        answers = [photo.answer for photo in self._photos]
        distances = {name: drift.distance for name, drift in self._drifts(np.arange(n)).items()}
        strongest = max(distances, key=lambda name: distances[name])
        return Shift(
            photos=n,
            alarmed_share_by_size=shares,
            photos_to_detect=next((size for size in SIZES if shares[str(size)] >= _DETECTED), None),
            quantities_in_the_largest=[name for name, _ in often.most_common()],
            strongest=Strongest(strongest, distances[strongest]),
            accuracy_told=float(np.mean([answer.probability for answer in answers])),
            accuracy=_share([photo.right for photo in self._photos]),
            unfamiliar=_share([bool(answer.unfamiliar) for answer in answers]),
            unfamiliar_or_uncertain=_share([answer.unfamiliar or answer.uncertain for answer in answers]),
        )

    def _alarmed(self, chosen: npt.NDArray[np.int64]) -> list[str]:
        """The quantities that raise the alarm in a window of the photos chosen."""
        return [name for name, drift in self._drifts(chosen).items() if alarms(drift.distance, drift.z)]

    def _drifts(self, chosen: npt.NDArray[np.int64]) -> dict[str, Drift]:
        return {
            name: compare(
                known.counts, np.bincount(self._bins[name][chosen], minlength=len(known.counts)).tolist()
            )
            for name, known in self._reference.quantities.items()
        }


def _share(flags: list[bool]) -> intervals.Figure:
    return intervals.wilson(sum(flags), len(flags))
