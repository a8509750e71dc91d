"""Results of the `evaluation.artefact` commands: records for gates, JSON and pages.

`evaluation.release` reads the stored records.
"""

from __future__ import annotations

import msgspec

from evaluation.figures.intervals import Figure
from evaluation.figures.metrics import Evaluation
from evaluation.ledger import Model
from serving.contract.card import InProduction


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
    split: str = ""
    """Split of the photos; empty in older results."""
    test_looks: int | None = None
    """Models looked at so far on these photos of test or production, this one included; else None."""
    production: InProduction | None = None
    """Accuracy on the photos of production, in the figures of a release; None without such photos."""


class Slice(Figure, frozen=True, kw_only=True):
    """Accuracy on one slice of the photos."""

    property: str
    """What the kind is about, such as brightness."""
    slice: str
    """The range of the property, in words."""


class AsTaken(msgspec.Struct, frozen=True):
    """The same photos in two versions: as in the split, and as they were taken."""

    accuracy: Figure
    """On the photos as taken."""
    of_copies: Figure
    """On their copies in the split."""
    difference: Figure
    """As taken minus copies, paired."""


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
    corrupted: Figure | None = None
    """Accuracy under all corruptions together; the interval is by photo, not by picture."""
    as_taken: AsTaken | None = None
    """None without such photos."""
    split: str = ""
    """Split of the photos; empty in older results."""


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
    points_lost: Figure
    """Accuracy that the candidate loses here, in percentage points, paired."""
    p: float
    """Exact one-sided p-value of McNemar's test that the candidate is not worse."""
    worse: bool
    """Whether the candidate is significantly worse, at 5 % for all slices together (Holm 1979)."""


class Differing(msgspec.Struct, frozen=True):
    """A photo on which only one of the two artefacts is right."""

    path: str
    """Path of the photo."""
    label: str
    """Its class."""
    answer: str
    """The other artefact's prediction, which is wrong."""
    probability: float
    """Of that prediction."""


class Comparison(msgspec.Struct, frozen=True):
    """Candidate and champion on the same photos: a split of `reports/compare/compare.json`."""

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
    other_predictions: int
    """Photos for which the two predict different classes."""
    largest_change: float
    """Largest absolute difference of a probability between the two."""
    accuracy_difference: Figure
    """The candidate's minus the champion's, paired."""
    detectable_points: float
    """Difference in accuracy, in points, that McNemar's test would find here with a probability of 80 %."""
    mcnemar_p: float
    """p-value of the hypothesis that both are right equally often."""
    significantly_worse: float
    """1 if the candidate is worse by McNemar's test at 5 %, else 0."""
    slices: list[ComparedSlice]
    """Slices with enough photos, and not nearly all of them."""
    slices_worse: int
    """Slices on which the candidate is worse."""
    log_loss_times: Figure
    """The candidate's log loss divided by the champion's, paired."""
    latency_times: Figure
    """The candidate's time per photo divided by the champion's: median of paired ratios."""
    bytes_times: float
    """The candidate's size divided by the champion's."""
    lost: list[Differing]
    """Photos on which only the champion is right."""
    gained: list[Differing]
    """Photos on which only the candidate is right."""

    @property
    def points_lost(self) -> Figure:
        """Accuracy that the candidate loses, in percentage points."""
        return lost(self.accuracy_difference)

    @property
    def slice_points_lost(self) -> Figure:
        """The same on the slice where it can be largest; 0 if no slice has enough photos."""
        return worst_slice(self.slices)

    @property
    def ece(self) -> Figure:
        """The candidate's calibration error."""
        return self.candidate.ece


def lost(difference: Figure) -> Figure:
    """What a difference in accuracy loses, in percentage points."""
    low, value, high = (0 - 100 * end for end in (difference.high, difference.value, difference.low))
    return Figure(value, low, high, difference.n)


def worst_slice(slices: list[ComparedSlice]) -> Figure:
    """What is lost on the slice where it can be most; 0 without slices."""
    none = Figure(0.0, 0.0, 0.0, 0)
    return max((one.points_lost for one in slices), key=lambda figure: figure.high, default=none)


class GateRate(msgspec.Struct, frozen=True, kw_only=True):
    """How often one model passes some gates."""

    model: str
    """Which model, in words."""
    accuracy: Figure
    """On all photos."""
    gates: str
    """Which gates, in words."""
    n: int
    """Photos in a set."""
    passes: Figure
    """Share of the sets that pass."""
    fails: Figure
    """Share of the sets that fail; the rest are too few photos to tell."""


class GateRates(msgspec.Struct, frozen=True):
    """How often right and wrong models pass: `build/rates/rates.json`."""

    model: Model
    """The artefact that is right."""
    draws: int
    """Sets of each size."""
    photos: int
    """Photos from which they are drawn."""
    rows: list[GateRate]
    """By model, size and gates."""


class Strongest(msgspec.Struct, frozen=True):
    """The quantity that moved farthest from its reference."""

    quantity: str
    """Its name."""
    distance: float
    """Jensen-Shannon distance, 0 to 1."""


class Detection(msgspec.Struct, frozen=True):
    """How many changed photos arrive, in a full window of others, until the drift rule holds."""

    median: float | None
    """Photos, over the runs; None if half of the runs end without an alarm."""
    low: float | None
    """5 % of the runs need no more; None likewise."""
    high: float | None
    """95 % of the runs need no more; None likewise."""
    detected: Figure
    """Share of the runs in which the rule held before the photos ran out."""


class FalseAlarms(msgspec.Struct, frozen=True):
    """The drift rule on photos without a change and not in the reference; a run starts without photos."""

    photos: int
    """In each run."""
    per_look: Figure
    """Share of looks at which a quantity had drifted, of all runs; the interval is by run."""
    per_run: Figure
    """Share of runs in which the rule held at any look, for any quantity."""
    alerts_per_run: Figure
    """Share of runs in which it held for 15 minutes, at ten photos per minute."""
    by_quantity: dict[str, Figure]
    """Share of runs in which the rule held at any look, for each quantity alone."""


class Shift(msgspec.Struct, frozen=True):
    """The drift alarm under one change of the photos."""

    photos: int
    """Photos."""
    detection: Detection | None
    """None for fewer photos than a window is judged by."""
    strongest: Strongest
    """Over all photos."""
    accuracy_estimated: float
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
    runs: int
    """Simulated runs in each row."""
    reference_photos: int
    """Photos in the reference of each run."""
    window: int
    """Photos in a full window."""
    false_alarms: FalseAlarms
    """Without a change."""
    moved: dict[str, Detection]
    """By quantity: it alone moved by one standard deviation, or to another class."""
    kinds: dict[str, Shift]
    """By change."""
