"""Pure arithmetic: probabilities and targets in, figures with intervals out.

Arrays are `f[N,K]` probabilities, whose rows sum to one, and `i[N]` class numbers. Nothing here
reads a file, draws or uses a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax
from scipy.stats import beta, rankdata

from evaluation.figures.intervals import Z_95, Figure, Flags, Floats, Ints, mean, weighted_mean, wilson

SUMMARY: Final = ("accuracy", "log_loss", "brier", "ece", "roc_auc")
"""Figures of a model as a whole, in the order of tables."""
ECE_BINS: Final = 15
_LEAST_PROBABILITY: Final = 1e-12
_DRAWN: Final = 1000
"""Sets of labels drawn to see how much a calibration error varies."""
_AT_ONCE: Final = 100
_LEVEL: Final = 0.05


class CalibrationError(Figure, frozen=True, kw_only=True):
    """An expected calibration error, next to what a perfectly calibrated model would show.

    The binned error is biased upwards: it is above 0 even if every confidence is right (Bröcker and Smith
    2007). `null` is its mean over labels drawn from the confidences themselves. The interval moves the value
    by the wider of two spreads, that of the null and that of labels drawn from the accuracies found, so its
    lower end is 0 unless the error is more than chance. `make intervals` measures how often it holds.
    """

    null: float = math.nan
    """Mean of the error of a perfectly calibrated model with the same confidences."""
    null_high: float = math.nan
    """Its 97.5 % quantile: a value above it is more than chance."""


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
    brier: Figure | None = None
    """Mean squared distance of the probabilities from the target; None in older results."""
    ece: CalibrationError
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

    def summary(self) -> dict[str, Figure]:
        """The figures of the model as a whole that cards and tables show, by name."""
        return {name: getattr(self, name) for name in SUMMARY}

    @property
    def lowest_recall(self) -> Figure:
        """The recall of the class with the lowest one, of those that have photos."""
        present = [figure for figure in self.recall.values() if figure.n]
        return min(present, key=lambda figure: figure.value, default=wilson(0, 0))


def accuracy(probabilities: Floats, targets: Ints) -> Figure:
    """Share of photos whose most probable class is the target."""
    return wilson(int((probabilities.argmax(1) == targets).sum()), len(targets))


def macro_accuracy(recall: Iterable[Figure]) -> Figure:
    """Mean of the recalls of the classes that have photos."""
    present = [figure for figure in recall if figure.n]
    return weighted_mean(present, [1.0] * len(present))


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


def fit_temperature(log_probabilities: Floats, targets: Ints) -> float:
    """The divisor of the logits that minimises the log loss (Guo et al. 2017, section 4.2), from 0.2 to 10.

    Args:
        log_probabilities: `f64[N,K]`; logits will do.
        targets: `i64[N]`.
    """

    def loss(log_temperature: float) -> float:
        return _loss_at(math.exp(log_temperature), log_probabilities, targets)

    found = minimize_scalar(loss, bounds=(math.log(0.2), math.log(10.0)), method="bounded")
    return math.exp(float(found.x))


def calibrated_loss(log_probabilities: Floats, targets: Ints) -> float:
    """Mean log loss at the best temperature, in nats; NaN if a logit is not finite. Arguments as above."""
    if not np.isfinite(log_probabilities).all():
        return math.nan
    return _loss_at(fit_temperature(log_probabilities, targets), log_probabilities, targets)


def _loss_at(temperature: float, log_probabilities: Floats, targets: Ints) -> float:
    scaled = log_softmax(log_probabilities / temperature, axis=1)
    return float(-scaled[np.arange(len(targets)), targets].mean())


def brier_scores(probabilities: Floats, targets: Ints) -> Floats:
    """`f64[N]`: squared distance of each photo's probabilities from its target (Brier 1950), 0 to 2."""
    distance = probabilities.astype(np.float64)
    distance[np.arange(len(targets)), targets] -= 1
    squares: Floats = (distance**2).sum(1)
    return squares


def expected_calibration_error(probabilities: Floats, targets: Ints, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3)."""
    return float(_calibration_errors(*_confidence(probabilities, targets), bins)[0])


def calibration_error(probabilities: Floats, targets: Ints, seed: int = 0) -> CalibrationError:
    """The expected calibration error with its interval and the null's distribution."""
    confidence, right = _confidence(probabilities, targets)
    n = len(targets)
    if not n:
        return CalibrationError(math.nan, math.nan, math.nan, 0)
    random = np.random.default_rng(seed)
    value = float(_calibration_errors(confidence, right)[0])
    null = np.concatenate(
        [
            _calibration_errors(confidence, random.uniform(size=(_AT_ONCE, n)) < confidence)
            for _ in range(_DRAWN // _AT_ONCE)
        ]
    )
    around = _errors_around(confidence, right, random) - value
    null_low, null_high = map(float, np.quantile(null, (0.025, 0.975)))
    below, above = map(float, np.quantile(around, (0.025, 0.975)))
    return CalibrationError(
        value,
        max(0.0, value - max(above, null_high)),
        value - min(below, null_low - float(null.mean())),
        n, null=float(null.mean()), null_high=null_high,
    )  # fmt: skip


def _calibration_errors(confidence: Floats, right: Flags, bins: int = ECE_BINS) -> Floats:
    """`f64[R]`: the error of each row of `right`, `b[N]` or `b[R,N]`."""
    member = np.eye(bins)[_bin(confidence, bins)]  # f64[N,bins]
    gaps = np.atleast_2d(right).astype(np.float64) @ member - confidence @ member
    errors: Floats = np.abs(gaps).sum(1) / len(confidence)
    return errors


def _errors_around(confidence: Floats, right: Flags, random: np.random.Generator) -> Floats:
    """`f64[R]`: errors of labels drawn from each bin's accuracy, one photo at its confidence added."""
    number = _bin(confidence, ECE_BINS)
    photos, sure, hits = (
        np.bincount(number, weights, ECE_BINS) for weights in (np.ones(len(number)), confidence, right)
    )
    some = photos > 0
    photos, sure, hits = photos[some], sure[some], hits[some]
    drawn = random.binomial(photos.astype(int), (hits + sure / photos) / (photos + 1), (_DRAWN, len(photos)))
    errors: Floats = np.abs(drawn - sure).sum(1) / len(number)
    return errors


def _bin(confidence: Floats, bins: int) -> Ints:
    number: Ints = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return number


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
    confidence, right = _confidence(probabilities, targets)
    number = _bin(confidence, bins)
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

    By Mann and Whitney's statistic, with Newcombe's score interval (Newcombe 2006, part 2, method 5), which
    holds where the area is nearly 1; for several classes the mean of their intervals, as if all areas erred
    together. NaN where a class has no photo.
    """
    classes, n = probabilities.shape[1], len(targets)
    chosen = [1] if classes == 2 else range(classes)
    areas = [_auc(probabilities[:, k].astype(np.float64), targets == k) for k in chosen]
    value, low, high = np.mean(areas, axis=0).tolist()
    return Figure(value, low, high, n)


def _auc(score: Floats, positive: Flags) -> tuple[float, float, float]:
    """The area and its interval."""
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return math.nan, math.nan, math.nan
    area = float((rankdata(score)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))
    middle = (hits + misses) / 2 - 1

    def beyond(truth: float) -> float:
        """How many standard errors, less 1.96, the area is from a true one (Hanley and McNeil 1982)."""
        spread = truth * (1 - truth) * (1 + middle * ((1 - truth) / (2 - truth) + truth / (1 + truth)))
        return abs(area - truth) - Z_95 * math.sqrt(spread / (hits * misses))

    low = float(brentq(beyond, 0.0, area)) if area > 0 else 0.0
    high = float(brentq(beyond, area, 1.0)) if area < 1 else 1.0
    return area, low, high


def confusion(probabilities: Floats, targets: Ints) -> npt.NDArray[np.int64]:
    """`i64[K,K]`: rows the true class, columns the predicted one."""
    classes = probabilities.shape[1]
    flat = targets.astype(np.int64) * classes + probabilities.argmax(1)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


class Abstain(NamedTuple):
    """From which confidence on to accept predictions."""

    threshold: float
    """The confidence; 1 if no prediction can be accepted."""
    bound: float
    """Share of wrong predictions among the accepted ones: an upper bound with a confidence of 95 %."""


def abstain_threshold(probabilities: Floats, targets: Ints, error_max: float) -> Abstain:
    """The lowest confidence from which the bound on the share of errors is at most `error_max`.

    With a confidence of 95 %, over the draw of these photos, at most `error_max` of the predictions of other
    photos of the same population are wrong from there on. It is selection with guaranteed risk (Geifman and
    El-Yaniv 2017, algorithm 1): a binary search over the photos in order of confidence, with the exact
    binomial bound at a level divided by the number of steps.

    Too few photos, or too many errors, cannot show `error_max`. Then the threshold is the lowest one from
    which at most `error_max` of these photos are wrong, and the bound, at a level divided by their number, is
    what can be said of it.
    """
    n, confidence = len(targets), probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    wrong = np.cumsum(probabilities[order].argmax(1) != targets[order])
    accepted = np.searchsorted(-sure, -sure, side="right")  # those as sure as the last are accepted too
    steps = max(1, math.ceil(math.log2(n + 1)))
    best, few, many = None, 0, n
    while few < many:
        middle = (few + many + 1) // 2
        photos = int(accepted[middle - 1])
        bound = _error_bound(int(wrong[photos - 1]), photos, steps)
        if bound <= error_max:
            best, few = Abstain(float(sure[middle - 1]), bound), middle
        else:
            many = middle - 1
    if best:
        return best
    good = np.flatnonzero(wrong[accepted - 1] <= error_max * accepted)
    if not len(good):
        return Abstain(1.0, 1.0)
    photos = int(accepted[good[-1]])
    return Abstain(float(sure[good[-1]]), _error_bound(int(wrong[photos - 1]), photos, n))


def _error_bound(errors: int, n: int, looks: int) -> float:
    """Clopper and Pearson's upper bound (1934) of a share, at 95 % for all of `looks` of them together."""
    return 1.0 if errors == n else float(beta.ppf(1 - _LEVEL / looks, errors + 1, n - errors))


def evaluate(probabilities: Floats, targets: Ints, labels: list[str]) -> Evaluation:
    """All figures of one set of photos, labels in the order of the columns."""
    table = confusion(probabilities, targets)
    right = [int(count) for count in table.diagonal()]
    recall = _shares(labels, right, table.sum(1))
    return Evaluation(
        n=len(targets),
        accuracy=accuracy(probabilities, targets),
        log_loss=mean(losses(probabilities, targets), most=-math.log(_LEAST_PROBABILITY)),
        brier=mean(brier_scores(probabilities, targets), most=2.0),
        ece=calibration_error(probabilities, targets),
        roc_auc=roc_auc(probabilities, targets),
        precision=_shares(labels, right, table.sum(0)),
        recall=recall,
        confusion=Confusion(labels, table.tolist()),
        macro_accuracy=macro_accuracy(recall.values()),
        top5_accuracy=top_accuracy(probabilities, targets, 5) if len(labels) > 5 else None,
    )


def _shares(labels: list[str], hits: list[int], totals: npt.NDArray[np.int64]) -> dict[str, Figure]:
    return {label: wilson(hit, int(total)) for label, hit, total in zip(labels, hits, totals, strict=True)}
