"""Pure arithmetic: probabilities and targets in, figures with intervals out.

Arrays are `f[N,K]` probabilities, whose rows sum to one, and `i[N]` class numbers. Nothing here
reads a file, draws or uses a model.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from evaluation.figures.intervals import Figure, Flags, Floats, Ints, bootstrap, mean, wilson

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


class Evaluation(msgspec.Struct, frozen=True):
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


def accuracy(probabilities: Floats, targets: Ints) -> Figure:
    """Share of photos whose most probable class is the target."""
    return wilson(int((probabilities.argmax(1) == targets).sum()), len(targets))


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
    return float(
        sum(abs(b.confidence - b.accuracy) * b.share for b in reliability(probabilities, targets, bins))
    )


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
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == targets
    number = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return [
        ReliabilityBin(
            float(confidence[number == i].mean()),
            float(correct[number == i].mean()),
            float((number == i).mean()),
            int((number == i).sum()),
        )
        for i in np.unique(number)
    ]


def roc_auc(probabilities: Floats, targets: Ints) -> float:
    """Area under the ROC curve; for more than two classes, the mean of one against the rest.

    NaN where the targets hold only one class.
    """
    classes = probabilities.shape[1]
    if classes == 2:
        return _auc(probabilities[:, 1], targets == 1)
    return float(np.mean([_auc(probabilities[:, k], targets == k) for k in range(classes)]))


def _auc(score: Floats, positive: Flags) -> float:
    """By Mann and Whitney's statistic (Hanley and McNeil 1982), many times as fast as scikit-learn."""
    if positive.all() or not positive.any():
        return math.nan
    hits, misses = int(positive.sum()), int((~positive).sum())
    ranks = float(rankdata(score)[positive].sum())
    return (ranks - hits * (hits + 1) / 2) / (hits * misses)


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
    return Evaluation(
        n=len(targets),
        accuracy=accuracy(probabilities, targets),
        log_loss=mean(losses(probabilities, targets)),
        ece=bootstrap(expected_calibration_error, probabilities, targets),
        roc_auc=bootstrap(roc_auc, probabilities, targets),
        precision=_shares(labels, right, table.sum(0)),
        recall=_shares(labels, right, table.sum(1)),
        confusion=Confusion(labels, table.tolist()),
    )


def _shares(labels: list[str], hits: list[int], totals: npt.NDArray[np.int64]) -> dict[str, Figure]:
    return {label: wilson(hit, int(total)) for label, hit, total in zip(labels, hits, totals, strict=True)}
