"""What the commands of `evaluation.artefact` find: records for gates, JSON and pages.

`evaluation.release` reads the stored ones again.
"""

from __future__ import annotations

import msgspec

from evaluation.figures.intervals import Figure
from evaluation.figures.metrics import Evaluation
from serving.contract.artifact import Artifact


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Which artefact was judged."""

    name: str = ""
    """As its card has it; empty in studies from before it was kept there."""
    version: str
    """As its card has it."""
    sha256: str
    """Of the file's bytes."""

    @classmethod
    def of(cls, artifact: Artifact) -> Model:
        """That of an artefact."""
        return cls(name=artifact.card.name, version=artifact.card.version, sha256=artifact.sha256)


class Audited(Figure, frozen=True, kw_only=True):
    """Accuracy where a person's reviewed labels count."""

    relabelled: int
    """Photos whose label the review changed."""
    left_out: int
    """Photos that the review shows to no model."""


class Offline(Evaluation, frozen=True, kw_only=True, omit_defaults=True):
    """The artefact on one split, through the handler that serves: `reports/evaluation/metrics.json`."""

    uncertain: Figure
    """Share of answers below the artefact's abstain threshold."""
    accuracy_when_certain: Figure
    """Accuracy of the other answers."""
    audited: Audited | None = None
    """None where the review touches none of the photos."""
    model: Model
    """The artefact."""
    mlflow_run_id: str
    """Of the training it comes from."""


class Slice(Figure, frozen=True, kw_only=True):
    """Accuracy on the photos of one kind."""

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
    """On the photos that were corrupted, as they were before."""
    slices: list[Slice]
    """Every slice of every property."""
    weakest: Slice | None
    """The slice of least accuracy among those of enough photos."""
    corruptions: dict[str, list[Figure]]
    """Accuracy by corruption, at strengths 1 to 5."""


class Side(Evaluation, frozen=True, kw_only=True):
    """One of the two artefacts that are compared, and its figures."""

    name: str
    """As its card has it."""
    version: str
    """As its card has it."""
    sha256: str
    """Of the file's bytes."""
    bytes: int
    """Size of the file."""


class ComparedSlice(msgspec.Struct, frozen=True):
    """Both artefacts on the photos of one kind."""

    property: str
    """What the kind is about, such as brightness."""
    slice: str
    """The range of the property, in words."""
    n: int
    """Photos of the kind."""
    candidate: float
    """Share on which the candidate is right."""
    champion: float
    """Share on which the champion is right."""
    p: float
    """McNemar's, two-sided and exact."""
    worse: bool
    """The candidate is worse, and not by chance."""


class Lost(msgspec.Struct, frozen=True):
    """A photo on which the champion is right and the candidate is not."""

    path: str
    """Where the photo is."""
    label: str
    """Its class."""
    answer: str
    """The candidate's."""
    probability: float
    """Of the candidate's answer."""


class Ratio(msgspec.Struct, frozen=True):
    """Median of paired ratios."""

    median: float
    """Of the candidate's value over the champion's, photo by photo."""
    n: int
    """Photos."""

    @property
    def value(self) -> float:
        """What a gate limits."""
        return self.median


class Comparison(msgspec.Struct, frozen=True):
    """Candidate and champion on the same photos: `reports/compare/compare.json`."""

    candidate: Side
    """The artefact that may take the champion's place."""
    champion: Side
    """The artefact in that place."""
    photos: int
    """How many both answered."""
    only_candidate_right: int
    """Photos on which the candidate alone is right."""
    only_champion_right: int
    """Photos on which the champion alone is right."""
    accuracy_difference: Figure
    """The candidate's less the champion's, paired."""
    points_lost_at_most: float
    """Of accuracy, in points, at the unfavourable end of the interval."""
    mcnemar_p: float
    """That both are right equally often."""
    significantly_worse: float
    """1 if the candidate is worse by McNemar's test at 5 %, else 0."""
    slices: list[ComparedSlice]
    """Kinds of enough photos to judge."""
    slices_worse: int
    """How many of them the candidate is worse on."""
    log_loss_times: float
    """The candidate's log loss over the champion's."""
    latency_times: Ratio
    """The candidate's time for a photo over the champion's."""
    bytes_times: float
    """The candidate's size over the champion's."""
    lost: list[Lost]
    """Photos that the candidate loses."""

    @property
    def points_lost(self) -> float:
        """Of accuracy, at most; what the gate `points_lost_max` limits."""
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
    """Jensen-Shannon, 0 to 1."""


class Shift(msgspec.Struct, frozen=True):
    """The drift alarm under one change of the photos."""

    photos: int
    """Photos that windows are drawn from."""
    alarmed_share_by_size: dict[str, float]
    """Share of windows that alarm, by photos in a window."""
    photos_to_detect: int | None
    """Smallest size at which nearly all windows alarm; None if no size does."""
    quantities_in_the_largest: list[str]
    """What alarms in windows of the largest size, the most frequent first."""
    strongest: Strongest
    """Over all photos."""
    accuracy_told: float
    """Mean confidence: what a service without labels knows of its accuracy."""
    accuracy: Figure
    """By the labels; of strangers 0, for they have none."""
    unfamiliar: Figure
    """Share of answers marked unfamiliar."""
    unfamiliar_or_uncertain: Figure
    """Share of answers with either mark."""


class Shifts(msgspec.Struct, frozen=True):
    """Which changes the drift alarm notices: `build/shifts/shifts.json`."""

    model: Model
    """The artefact."""
    windows: int
    """Drawn for each change and size."""
    kinds: dict[str, Shift]
    """By change."""
