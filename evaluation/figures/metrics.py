"""Pure arithmetic: probabilities and targets in, figures with intervals out.

Arrays are `f[N,K]` probabilities, rows summing to one, and `i[N]` class numbers. Nothing here
reads a file, draws or knows a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, rankdata

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]

ECE_BINS: Final = 15
_Z_95: Final = 1.959963984540054  # 97.5 % quantile of the normal distribution
_RESAMPLES: Final = 500
TOLERATED_DROP: Final = 0.02
"""Share of answers by which a deployed service may be worse than its test split and still be called right."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % confidence interval and its evidence."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: a value that is not defined is null."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


def show(figure: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Value, 95 % interval and n of a figure as text; a dash for what is not defined."""
    value, low, high = ("-" if figure[k] is None else f"{figure[k]:.4f}" for k in ("value", "low", "high"))
    return value, f"{low} to {high}", str(figure["n"])


def wilson(hits: int, n: int) -> Figure:
    """Share `hits / n` with Wilson's score interval (Wilson 1927); NaN for no cases."""
    if n == 0:
        return Figure(math.nan, 0.0, 1.0, 0)
    share, z2 = hits / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Figure(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)), n)


def difference(first: Figure, second: Figure) -> Figure:
    """`first - second` of two independent shares with Newcombe's interval (Newcombe 1998, method 10).

    Args:
        first: As `wilson` gives it.
        second: Likewise, of other photos; the result's n is the first one's.
    """
    gap = first.value - second.value
    low = gap - math.hypot(first.value - first.low, second.high - second.value)
    high = gap + math.hypot(first.high - first.value, second.value - second.low)
    return Figure(gap, low, high, first.n)


def mcnemar(first: Flags, second: Flags) -> float:
    """Two-sided exact p-value that two models are right equally often on the same photos (McNemar 1947).

    Args:
        first: Whether the first model is right, `b[N]`.
        second: The second one, likewise.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def paired_difference(first: Flags, second: Flags) -> Figure:
    """Share right of the first less that of the second, on the same photos.

    Wald's interval with half a photo added to each cell of the two-by-two table (Agresti and Min 2005).
    """
    n = len(first) + 2.0
    gained, lost = (first & ~second).sum() + 0.5, (~first & second).sum() + 0.5
    middle = (gained - lost) / n
    half = _Z_95 * math.sqrt((gained + lost) - (gained - lost) ** 2 / n) / n
    value = float(first.mean() - second.mean())
    return Figure(value, float(middle - half), float(middle + half), len(first))


def bootstrap(
    statistic: Callable[[Floats, Ints], float], probabilities: Floats, targets: Ints, seed: int = 0
) -> Figure:
    """`statistic` on all photos, with the percentile interval of resampled photos (Efron 1979)."""
    n = len(targets)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(_RESAMPLES):
        chosen = random.integers(0, n, n)
        value = statistic(probabilities[chosen], targets[chosen])
        if math.isfinite(value):
            values.append(value)
    low, high = np.quantile(values, (0.025, 0.975)) if values else (math.nan, math.nan)
    return Figure(statistic(probabilities, targets), float(low), float(high), n)


def accuracy(probabilities: Floats, targets: Ints) -> Figure:
    """Share of photos whose most probable class is the target."""
    return wilson(int((probabilities.argmax(1) == targets).sum()), len(targets))


def log_loss(probabilities: Floats, targets: Ints) -> float:
    """Mean negative logarithm of the target's probability, in nats."""
    chosen = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(np.clip(chosen, 1e-12, 1.0)).mean())


def expected_calibration_error(probabilities: Floats, targets: Ints, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3)."""
    return float(
        sum(abs(b.confidence - b.accuracy) * b.share for b in reliability(probabilities, targets, bins))
    )


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Photos whose confidence falls in one bin."""

    confidence: float
    accuracy: float
    share: float
    n: int


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
    """Area under the ROC curve; of more than two classes the mean of one against the rest.

    NaN where the targets hold one class only.
    """
    classes = probabilities.shape[1]
    if classes == 2:
        return _auc(probabilities[:, 1], targets == 1)
    return float(np.mean([_auc(probabilities[:, k], targets == k) for k in range(classes)]))


def _auc(score: Floats, positive: Flags) -> float:
    """By Mann and Whitney's statistic (Hanley and McNeil 1982): scikit-learn takes many times as long."""
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
    """The least confidence from which on at most `error_max` of the answers are wrong; 1 if there is none."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(probabilities[order].argmax(1) != targets[order])
    good = np.flatnonzero(wrong <= error_max * np.arange(1, len(targets) + 1))
    return float(confidence[order[good[-1]]]) if len(good) else 1.0


def evaluate(probabilities: Floats, targets: Ints, labels: list[str]) -> dict[str, Any]:
    """All figures of one set of photos, ready for JSON.

    Returns:
        accuracy, log_loss, ece, roc_auc, each as value, low, high and n; precision and recall by
        class; the confusion matrix.
    """
    table = confusion(probabilities, targets)
    return {
        "n": len(targets),
        "accuracy": accuracy(probabilities, targets).as_dict(),
        "log_loss": bootstrap(log_loss, probabilities, targets).as_dict(),
        "ece": bootstrap(expected_calibration_error, probabilities, targets).as_dict(),
        "roc_auc": bootstrap(roc_auc, probabilities, targets).as_dict(),
        "precision": {
            label: wilson(int(table[k, k]), int(table[:, k].sum())).as_dict()
            for k, label in enumerate(labels)
        },
        "recall": {
            label: wilson(int(table[k, k]), int(table[k].sum())).as_dict() for k, label in enumerate(labels)
        },
        "confusion": {"labels": labels, "rows_true_columns_predicted": table.tolist()},
    }
