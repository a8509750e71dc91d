"""Pure arithmetic: probabilities and targets in, figures with intervals out.

Arrays are `f[N,K]` probabilities, whose rows sum to one, and `i[N]` class numbers. Nothing here
reads a file, draws or uses a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from evaluation.figures.intervals import Z_95, Figure, Flags, Floats, Ints, bootstrap, mean, wilson

ECE_BINS: Final = 15
_LEAST_PROBABILITY: Final = 1e-12
TOLERATED_DROP: Final = 0.02
"""Drop in accuracy, from its test split, up to which a deployed service counts as consistent."""


class Confusion(msgspec.Struct, frozen=True):
    """How often each class was predicted for each true class."""

    labels: list[str]
    """Class names, in the order of rows and columns."""
    rows_true_columns_predicted: list[list[int]]
    """Photos by true and predicted class."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of one set of photos."""

    n: int
    """Photos."""
    accuracy: Figure
    """Share of photos whose most probable class is the target."""
    log_loss: Figure
    """Mean negative logarithm of the target's probability, in nats."""
    ece: Figure
    """Expected calibration error."""
    roc_auc: Figure
    """Area under the ROC curve."""
    precision: dict[str, Figure]
    """Share of the predictions of each class that are right."""
    recall: dict[str, Figure]
    """Share of the photos of each class that are predicted correctly."""
    confusion: Confusion
    """Counts by true and predicted class."""
    macro_accuracy: Figure | None = None
    """Mean of the recalls: accuracy if every class were equally frequent; None in older results."""
    top5_accuracy: Figure | None = None
    """Share of photos whose target is among the five most probable classes; None for up to five."""

    @property
    def lowest_recall(self) -> Figure:
        """The recall of the class with the lowest one, of those that have photos."""
        present = [figure for figure in self.recall.values() if figure.n]
        return min(present, key=lambda figure: figure.value, default=wilson(0, 0))


def accuracy(probabilities: Floats, targets: Ints) -> Figure:
    """Share of photos whose most probable class is the target."""
    return wilson(int((probabilities.argmax(1) == targets).sum()), len(targets))


def macro_accuracy(recall: Iterable[Figure]) -> Figure:
    """Mean of the recalls of the classes that have photos.

    The interval joins theirs by their distances from the values (method of variance estimates recovery, Zou
    and Donner 2008).
    """
    present = [figure for figure in recall if figure.n]
    value = math.fsum(figure.value for figure in present) / len(present) if present else math.nan
    below = math.hypot(*(figure.value - figure.low for figure in present)) / max(1, len(present))
    above = math.hypot(*(figure.high - figure.value for figure in present)) / max(1, len(present))
    return Figure(value, value - below, value + above, sum(figure.n for figure in present))


def top_accuracy(probabilities: Floats, targets: Ints, most: int) -> Figure:
    """Share of photos whose target is among the `most` most probable classes."""
    chosen = probabilities[np.arange(len(targets)), targets]
    above = (probabilities > chosen[:, None]).sum(1)
    return wilson(int((above < most).sum()), len(targets))


def log_loss(probabilities: Floats, targets: Ints) -> float:
    """Mean negative logarithm of the target's probability, in nats."""
    return float(losses(probabilities, targets).mean())


def losses(probabilities: Floats, targets: Ints) -> Floats:
    """`f64[N]`: negative logarithm of each target's probability, in nats; finite even at probability 0."""
    chosen = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    clipped: Floats = -np.log(np.clip(chosen, _LEAST_PROBABILITY, 1.0))
    return clipped


def expected_calibration_error(probabilities: Floats, targets: Ints, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3)."""
    return _calibration_error(*_confidence(probabilities, targets), bins)


def _calibration_error(confidence: Floats, right: Flags | Ints, bins: int = ECE_BINS) -> float:
    found = _reliability(confidence, right, bins)
    return float(sum(abs(b.confidence - b.accuracy) * b.share for b in found))


def _confidence(probabilities: Floats, targets: Ints) -> tuple[Floats, Flags]:
    return probabilities.max(1), probabilities.argmax(1) == targets


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Photos whose confidence falls in one bin."""

    confidence: float
    """Their mean confidence."""
    accuracy: float
    """Share of them that are right."""
    share: float
    """Their share of all photos."""
    n: int
    """Number of photos in the bin."""


def reliability(probabilities: Floats, targets: Ints, bins: int = ECE_BINS) -> list[ReliabilityBin]:
    """The non-empty confidence bins of a reliability diagram, in rising order."""
    return _reliability(*_confidence(probabilities, targets), bins)


def _reliability(confidence: Floats, right: Flags | Ints, bins: int) -> list[ReliabilityBin]:
    number = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return [
        ReliabilityBin(
            float(confidence[number == i].mean()),
            float(right[number == i].mean()),
            float((number == i).mean()),
            int((number == i).sum()),
        )
        for i in np.unique(number)
    ]


def roc_auc(probabilities: Floats, targets: Ints) -> Figure:
    """Area under the ROC curve; for more than two classes, the mean of one against the rest.

    By Mann and Whitney's statistic with the variance of DeLong et al. (1988), for the mean from the sum of
    each photo's influences on the areas. The interval is on the scale of the logit (Qin and Hotilovac 2008);
    it is the value itself if the classes are separated without a mistake. NaN where a class has no photo.
    """
    classes, n = probabilities.shape[1], len(targets)
    chosen = [1] if classes == 2 else range(classes)
    areas, influence = [], np.zeros(n)
    for k in chosen:
        area, of_photos = _auc(probabilities[:, k].astype(np.float64), targets == k)
        areas.append(area)
        influence += of_photos / len(chosen)
    value = float(np.mean(areas))
    if not 0 < value < 1:
        return Figure(value, value, value, n)
    error = float(np.sqrt((influence**2).sum())) / n / (value * (1 - value))
    logit = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-logit - sign * Z_95 * error)) for sign in (-1, 1))
    return Figure(value, low, high, n)


def _auc(score: Floats, positive: Flags) -> tuple[float, Floats]:
    """The area, and each photo's influence on it, `f64[N]`."""
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return math.nan, np.full(len(score), math.nan)
    ranks = rankdata(score)
    above = np.empty(len(score))  # share of the other kind that stands on the right side of each photo
    above[positive] = (ranks[positive] - rankdata(score[positive])) / misses
    above[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / hits
    area = float(above[positive].mean())
    share = np.where(positive, hits, misses) / len(score)
    return area, (above - area) / share


def confusion(probabilities: Floats, targets: Ints) -> npt.NDArray[np.int64]:
    """`i64[K,K]`: rows the true class, columns the predicted one."""
    classes = probabilities.shape[1]
    flat = targets.astype(np.int64) * classes + probabilities.argmax(1)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def abstain_threshold(probabilities: Floats, targets: Ints, error_max: float) -> float:
    """The lowest confidence from which at most `error_max` of predictions are wrong; 1 if there is none."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(probabilities[order].argmax(1) != targets[order])
    good = np.flatnonzero(wrong <= error_max * np.arange(1, len(targets) + 1))
    return float(confidence[order[good[-1]]]) if len(good) else 1.0


def evaluate(probabilities: Floats, targets: Ints, labels: list[str]) -> Evaluation:
    """All figures of one set of photos, labels in the order of the columns."""
    table = confusion(probabilities, targets)
    right = [int(count) for count in table.diagonal()]
    recall = _shares(labels, right, table.sum(1))
    return Evaluation(
        n=len(targets),
        accuracy=accuracy(probabilities, targets),
        log_loss=mean(losses(probabilities, targets)),
        ece=bootstrap(_calibration_error, *_confidence(probabilities, targets)),
        roc_auc=roc_auc(probabilities, targets),
        precision=_shares(labels, right, table.sum(0)),
        recall=recall,
        confusion=Confusion(labels, table.tolist()),
        macro_accuracy=macro_accuracy(recall.values()),
        top5_accuracy=top_accuracy(probabilities, targets, 5) if len(labels) > 5 else None,
    )


def _shares(labels: list[str], hits: list[int], totals: npt.NDArray[np.int64]) -> dict[str, Figure]:
    return {label: wilson(hit, int(total)) for label, hit, total in zip(labels, hits, totals, strict=True)}
