"""Figures with 95 % confidence intervals: of shares, of their differences, and by resampling.

Pure arithmetic on counts and arrays; `evaluation.figures.metrics` has the statistics.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]
T = TypeVar("T")

Z_95: Final = 1.959963984540054  # 97.5 % quantile of the normal distribution
_RESAMPLES: Final = 2000
_AT_ONCE: Final = 100  # keeps a resample of 100,000 photos within some hundred MB


class Figure(msgspec.Struct, frozen=True):
    """A figure with its 95 % confidence interval and its evidence."""

    value: float
    """NaN if undefined, which is null in JSON."""
    low: float
    """Lower end of the interval; NaN if undefined."""
    high: float
    """Upper end of the interval; NaN if undefined."""
    n: int
    """Photos behind the figure."""


def decode(data: bytes, kind: type[T]) -> T:
    """A record of figures from its JSON; a null in a figure becomes NaN.

    Raises:
        ValueError: the data is not JSON, or not of this record.
    """
    return msgspec.convert(json.loads(data, object_hook=_undefined), kind)


def _undefined(content: dict[str, Any]) -> dict[str, Any]:
    return content | {
        key: math.nan for key in ("value", "low", "high") if key in content and content[key] is None
    }


def show(figure: Figure) -> tuple[str, str, str]:
    """Value, 95 % interval and n of a figure as text; a dash for an undefined number."""
    value, low, high = (
        f"{number:.4f}" if math.isfinite(number) else "-"
        for number in (figure.value, figure.low, figure.high)
    )
    return value, f"{low} to {high}", str(figure.n)


@lru_cache(maxsize=10_000)
def wilson(hits: int, n: int) -> Figure:
    """Share `hits / n` with Wilson's score interval (Wilson 1927); NaN if `n` is 0."""
    if n == 0:
        return Figure(math.nan, 0.0, 1.0, 0)
    found = stats.binomtest(hits, n).proportion_ci(method="wilson")
    share = hits / n  # rounding may leave it just outside
    return Figure(share, min(float(found.low), share), max(float(found.high), share), n)


def least_photos(share: float) -> int:
    """Fewest photos, all of them right, whose Wilson interval lies above `share`; 0 for a share of 0 or 1."""
    return math.ceil(Z_95**2 * share / (1 - share)) if 0 < share < 1 else 0


def difference(first: Figure, second: Figure) -> Figure:
    """`first - second` of two independent shares with Newcombe's interval (Newcombe 1998, method 10).

    Args:
        first: As `wilson` gives it.
        second: As `wilson` gives it, of other photos; the result's n is that of `first`.
    """
    gap = first.value - second.value
    low = gap - math.hypot(first.value - first.low, second.high - second.value)
    high = gap + math.hypot(first.high - first.value, second.value - second.low)
    return Figure(gap, low, high, first.n)


def weighted_mean(figures: Sequence[Figure], weights: Sequence[float]) -> Figure:
    """Mean of independent figures with known weights; those of weight 0 do not count.

    The interval joins theirs by their distances from the values (method of variance estimates recovery, Zou
    and Donner 2008).
    """
    some = [(figure, weight) for figure, weight in zip(figures, weights, strict=True) if weight]
    total = math.fsum(weight for _, weight in some)
    value = math.fsum(weight * figure.value for figure, weight in some) / total if some else math.nan
    below = math.hypot(*(weight * (figure.value - figure.low) for figure, weight in some)) / (total or 1)
    above = math.hypot(*(weight * (figure.high - figure.value) for figure, weight in some)) / (total or 1)
    return Figure(value, value - below, value + above, sum(figure.n for figure, _ in some))


def mcnemar(first: Flags, second: Flags, *, worse: bool = False) -> float:
    """Exact p-value that two models are right equally often on the same photos (McNemar 1947).

    Args:
        first: Whether the first model is right, `b[N]`.
        second: Whether the second model is right, `b[N]`.
        worse: One-sided: only a first model that is right less often counts against it.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    side = "less" if worse else "two-sided"
    return float(stats.binomtest(only_first, only_first + only_second, alternative=side).pvalue)


def holm(p_values: list[float], level: float) -> list[bool]:
    """Which of several hypotheses to reject, at a level for all of them together (Holm 1979)."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] >= level / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def detectable(first: Flags, second: Flags) -> float:
    """Difference in accuracy that McNemar's test at 5 % finds with a probability of 80 % on as many photos.

    From the share of photos on which the two models differ, with half a photo added to each kind (Connor
    1987, to first order).
    """
    n = len(first)
    differing = (int((first != second).sum()) + 1) / (n + 2)
    return float((Z_95 + stats.norm.ppf(0.8)) * math.sqrt(differing / n))


def photos_to_tell(gained: int, lost: int, n: int, limit: float) -> int | None:
    """About how many photos would show on which side of `limit` a difference in accuracy lies.

    As many as narrow the interval of `paired_difference` to one side, if the two models differ on others as
    often as on these; None if a hundred times as many would not.

    Args:
        gained: Photos on which only the first model is right.
        lost: Photos on which only the second is.
        n: All photos, at least 1.
        limit: Of the first model's accuracy minus the second's.
    """

    def tells(many: int) -> bool:
        found = _paired(gained * many / n, lost * many / n, many)
        return found.low >= limit or found.high < limit

    most = 100 * n
    return bisect_left(range(most), True, n, key=tells) if tells(most) else None


def paired_difference(first: Flags, second: Flags) -> Figure:
    """Accuracy of the first model minus that of the second, on the same photos, with Tango's score interval.

    The interval holds the differences that the score test does not reject at 5 % (Tango 1998); without a
    photo on which the models differ it is about `3.84 / n` on either side.
    """
    return _paired(int((first & ~second).sum()), int((~first & second).sum()), len(first))


@lru_cache(maxsize=10_000)
def _paired(gained: float, lost: float, n: int) -> Figure:
    """From the numbers of photos on which only the first, and only the second, model is right."""
    if not n:
        return Figure(math.nan, math.nan, math.nan, 0)
    value = (gained - lost) / n

    def score(truth: float) -> float:
        """Standard errors between the difference found and a true one."""
        linear = (2 * n - gained + lost) * truth - gained - lost
        root = math.sqrt(max(0.0, linear**2 + 8 * n * lost * truth * (1 - truth)))  # rounding, at the ends
        only_second = (root - linear) / (4 * n)  # the likeliest share of photos lost, if this is the truth
        spread = n * (2 * only_second + truth * (1 - truth))
        return (gained - lost - n * truth) / math.sqrt(max(spread, 1e-12))

    def end(beyond: float, deviate: float) -> float:
        """The true difference, between the one found and `beyond`, at which the score is `deviate`."""
        inside = value, beyond * (1 - 1e-9)
        if abs(score(inside[1])) < abs(deviate):  # not even the largest difference is rejected
            return beyond
        return float(brentq(lambda truth: score(truth) - deviate, *inside))

    return Figure(value, end(-1.0, Z_95), end(1.0, -Z_95), n)


def mean(values: Floats, seed: int = 0, most: float = math.inf) -> Figure:
    """The mean of one value per photo from 0 to `most`, such as a loss; as `ratio_of_means`.

    Where one photo has nearly all of the loss, the deviates have no bound: then the interval ends at `most`.
    """
    found = ratio_of_means(values, np.ones(len(values)), seed)
    return found if not found.high > most else msgspec.structs.replace(found, high=most)


def ratio_of_means(above: Floats, below: Floats, seed: int = 0) -> Figure:
    """`above.mean() / below.mean()` of two non-negative values per photo, with the bootstrap-t interval.

    Each resample's ratio is divided by its own standard error (Efron 1982, chapter 10), which follows the
    skew of losses, most of them near 0, where percentile and BCa intervals are too narrow: `make intervals`
    measures the coverage. A ratio of 0 to 0 is 1; where all photos have the same ratio, the interval is that
    value.

    Args:
        above: `f64[N]`.
        below: `f64[N]`, of the same photos.
        seed: Of the resamples.
    """
    n = len(above)
    value, error = (float(found[0]) for found in _ratios(above[None], below[None]))
    if n < 2 or not math.isfinite(value):
        return Figure(value, math.nan, math.nan, n)
    random = np.random.default_rng(seed)
    deviates = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        chosen = random.integers(0, n, (_AT_ONCE, n))
        ratios, errors = _ratios(above[chosen], below[chosen])
        some = errors > 0
        deviates.append((ratios[some] - value) / errors[some])
    found = np.concatenate(deviates)
    if error == 0 or not len(found):
        return Figure(value, value, value, n)
    below_it, above_it = np.quantile(found, (0.025, 0.975))
    low, high = value - float(above_it) * error, value - float(below_it) * error
    return Figure(value, min(max(0.0, low), value), max(high, value), n)


def _ratios(above: Floats, below: Floats) -> tuple[Floats, Floats]:
    """Ratio of the means of each row and its standard error by the delta method, `f64[R]` both."""
    means, others = above.mean(1), below.mean(1)
    equal = (means == 0) & (others == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(equal, 1.0, means / others)
        rest = above - ratio[:, None] * below
        error = np.where(equal, 0.0, np.sqrt((rest**2).sum(1)) / above.shape[1] / others)
    return ratio, error


def share_of_clusters(hits: Flags) -> Figure:
    """The share of hits where several belong to one photo, so that they are not independent.

    Wilson's interval for the number of photos that would be worth as much (Kish 1965): the trials divided by
    the design effect.

    Args:
        hits: `b[N,M]`, M trials on each of N photos.
    """
    trials, means = hits.size, hits.mean(1)
    value = float(hits.mean())
    alone = value * (1 - value) / trials
    effect = float(hits.shape[1])  # without a hit, or a miss, each photo counts once
    if alone and len(means) > 1:
        effect = max(1.0, float(means.var(ddof=1)) / len(means) / alone)
    worth = trials / effect
    middle = (value + Z_95**2 / (2 * worth)) / (1 + Z_95**2 / worth)
    half = Z_95 * math.sqrt(value * (1 - value) / worth + Z_95**2 / (4 * worth**2)) / (1 + Z_95**2 / worth)
    return Figure(value, max(0.0, middle - half), min(1.0, middle + half), trials)


def median(values: Floats) -> Figure:
    """The median with the interval between two order statistics, 95 % or more (Conover 1999, section 3.2)."""
    n, ordered = len(values), np.sort(values)
    rank = int(stats.binom.ppf(0.025, n, 0.5))  # as many values, less one, are surely below the interval
    value = float(np.median(ordered)) if n else math.nan
    if rank < 1:
        return Figure(value, math.nan, math.nan, n)
    return Figure(value, float(ordered[rank - 1]), float(ordered[n - rank]), n)
