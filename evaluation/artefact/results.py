"""Results of the `evaluation.artefact` commands: records for gates, JSON and pages.

`evaluation.release` reads the stored records.
"""

from __future__ import annotations

import msgspec

from evaluation.figures.intervals import Figure
from evaluation.figures.metrics import Evaluation
from serving.contract.artifact import Artifact


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact that was evaluated."""

    name: str = ""
    """From its card; empty in results from before it was stored."""
    version: str
    """As its card has it."""
    sha256: str
    """Of the file's bytes."""

    @classmethod
    def of(cls, artifact: Artifact) -> Model:
        """The record of an artefact."""
        return cls(name=artifact.card.name, version=artifact.card.version, sha256=artifact.sha256)


class Audited(Figure, frozen=True, kw_only=True):
    """Accuracy with reviewed labels."""

    relabelled: int
    """Photos whose label the review changed."""
    left_out: int
    """Photos that the review excludes."""


class Offline(Evaluation, frozen=True, kw_only=True, omit_defaults=True):
    """The artefact on one split, through the handler that serves: `reports/evaluation/metrics.json`."""

    uncertain: Figure
    """Share of predictions below the artefact's abstain threshold."""
    accuracy_when_certain: Figure
    """Accuracy of the other predictions."""
    audited: Audited | None = None
    """None where the review affects none of the photos."""
    model: Model
    """The artefact."""
    mlflow_run_id: str
    """Of the training run that made it."""


class Slice(Figure, frozen=True, kw_only=True):
    """Accuracy on one slice of the photos."""

    property: str
    """What the kind is about, such as brightness."""
    slice: str
    """The range of the property, in words."""


class Slices(msgspec.Struct, frozen=True):
    """Where the model is weak: `build/slices/slices.json`."""

    model: Model
    """The artefact."""
    accuracy: Figure
    """On the whole split."""
    accuracy_of_those_corrupted: Figure
    """On the photos that are corrupted, before corruption."""
    slices: list[Slice]
    """Every slice of every property."""
    weakest: Slice | None
    """The slice with the lowest accuracy among those with enough photos."""
    corruptions: dict[str, list[Figure]]
    """Accuracy by corruption, at strengths 1 to 5."""


class Side(Evaluation, frozen=True, kw_only=True):
    """One of the two compared artefacts, with its figures."""

    name: str
    """As its card has it."""
    version: str
    """As its card has it."""
    sha256: str
    """Of the file's bytes."""
    bytes: int
    """Size of the file."""


class ComparedSlice(msgspec.Struct, frozen=True):
    """Both artefacts on one slice of the photos."""

    property: str
    """What the kind is about, such as brightness."""
    slice: str
    """The range of the property, in words."""
    n: int
    """Photos in the slice."""
    candidate: float
    """Share on which the candidate is right."""
    champion: float
    """Share on which the champion is right."""
    p: float
    """Exact two-sided p-value of McNemar's test."""
    worse: bool
    """Whether the candidate is significantly worse."""


class Lost(msgspec.Struct, frozen=True):
    """A photo on which the champion is right and the candidate is not."""

    path: str
    """Path of the photo."""
    label: str
    """Its class."""
    answer: str
    """The candidate's prediction."""
    probability: float
    """Of that prediction."""


class Ratio(msgspec.Struct, frozen=True):
    """A median of paired ratios."""

    median: float
    """Over photos, of the candidate's value divided by the champion's."""
    n: int
    """Photos."""

    @property
    def value(self) -> float:
        """The number that a gate limits."""
        return self.median


class Comparison(msgspec.Struct, frozen=True):
    """Candidate and champion on the same photos: `reports/compare/compare.json`."""

    candidate: Side
    """The artefact that may replace the champion."""
    champion: Side
    """The released artefact."""
    photos: int
    """Photos that both predicted."""
    only_candidate_right: int
    """Photos on which only the candidate is right."""
    only_champion_right: int
    """Photos on which only the champion is right."""
    accuracy_difference: Figure
    """The candidate's minus the champion's, paired."""
    points_lost_at_most: float
    """Accuracy lost, in percentage points, at the unfavourable end of the interval."""
    mcnemar_p: float
    """p-value of the hypothesis that both are right equally often."""
    significantly_worse: float
    """1 if the candidate is worse by McNemar's test at 5 %, else 0."""
    slices: list[ComparedSlice]
    """Slices with enough photos."""
    slices_worse: int
    """Slices on which the candidate is worse."""
    log_loss_times: float
    """The candidate's log loss divided by the champion's."""
    latency_times: Ratio
    """The candidate's time per photo divided by the champion's."""
    bytes_times: float
    """The candidate's size divided by the champion's."""
    lost: list[Lost]
    """Photos on which only the champion is right."""

    @property
    def points_lost(self) -> float:
        """`points_lost_at_most`, under the name that the gate `points_lost_max` needs."""
        return self.points_lost_at_most

    @property
    def ece(self) -> Figure:
        """The candidate's calibration error."""
        return self.candidate.ece


class Strongest(msgspec.Struct, frozen=True):
    """The quantity that moved farthest from its reference."""

    quantity: str
    """Its name."""
    distance: float
    """Jensen-Shannon distance, 0 to 1."""


class Shift(msgspec.Struct, frozen=True):
    """The drift alarm under one change of the photos."""

    photos: int
    """Photos from which windows are drawn."""
    alarmed_share_by_size: dict[str, float]
    """Share of windows that raise the alarm, by window size."""
    photos_to_detect: int | None
    """Smallest window size at which nearly all windows raise the alarm; None if there is none."""
    quantities_in_the_largest: list[str]
    """Quantities that raise the alarm in the largest windows, most frequent first."""
    strongest: Strongest
    """Over all photos."""
    accuracy_told: float
    """Mean confidence: the accuracy that a service can estimate without labels."""
    accuracy: Figure
    """By the labels; 0 for strangers, which have none."""
    unfamiliar: Figure
    """Share of predictions marked unfamiliar."""
    unfamiliar_or_uncertain: Figure
    """Share of predictions with either mark."""


class Shifts(msgspec.Struct, frozen=True):
    """Which changes the drift alarm detects: `build/shifts/shifts.json`."""

    model: Model
    """The artefact."""
    windows: int
    """Windows per change and size."""
    kinds: dict[str, Shift]
    """By change."""
