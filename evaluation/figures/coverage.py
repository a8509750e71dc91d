"""`python -m evaluation intervals`: how often do the published 95 % intervals hold the truth?

Sets of photos are drawn from a population whose figures are known exactly; each set gives every interval that
the model card, the comparison and the live evaluation publish. No data is needed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from common.cores import map_on_cores
from common.files import write_json, write_text
from evaluation.figures import intervals, metrics
from evaluation.figures.intervals import Figure, Floats, Ints
from evaluation.figures.strata import Production, Stratum, production

SIZES: Final = (200, 500, 2330)
"""Photos in a set: labelled photos of staging, a small and the released model's test split."""
_POPULATION: Final = 1_000_000
_MARGIN: Final = (9.0, 3.4)
"""Mean and deviation of the margin between the two logits: about 0.9 % of the predictions are wrong."""
_SHARPER: Final = 2.0
"""Factor on the margins of a model that is too sure of itself."""
_PICTURES: Final = 11
_LOST: Final = 0.004
"""Share of photos on which a second model is wrong where the first is right."""

_ANSWERED: Final = ((0.04, 0.65, 0.06, 0.03), (0.96, 0.995, 0.01, 0.005))
"""A service's answers by stratum, the uncertain or unfamiliar ones first: their share of all; of
them, the shares that are right where a class is shown, that show none, and that nobody can tell."""

Draw = tuple[Floats, Ints, Floats]
"""Probabilities and targets of a set, and the second model's probabilities."""


class Coverage(msgspec.Struct, frozen=True):
    """How often an interval holds the true figure."""

    figure: str
    """What the interval is of."""
    n: int
    """Photos in a set."""
    truth: float
    """In the population."""
    held: Figure
    """Share of the sets whose interval holds the truth."""
    width: float
    """Median width of the intervals."""


class Coverages(msgspec.Struct, frozen=True):
    """Coverage of every published interval: `build/intervals/intervals.json`."""

    sets: int
    """Sets of each size."""
    rows: list[Coverage]
    """By figure and size."""


def draw(n: int, random: np.random.Generator) -> Draw:
    """`n` photos of two classes: calibrated probabilities, targets, and a slightly worse second model's."""
    targets = random.integers(0, 2, n)
    margin = random.normal(*_MARGIN, n)
    right = random.uniform(size=n) < 1 / (1 + np.exp(-np.abs(margin)))
    first = 1 / (1 + np.exp(-np.abs(margin)))  # probability of the class that is predicted
    predicted = np.where(right, targets, 1 - targets)
    second = np.where(right & (random.uniform(size=n) < _LOST), 1 - predicted, predicted)
    return _of(predicted, first), targets, _of(second, np.clip(first * random.uniform(0.98, 1, n), 0.5, 1))


def _of(predicted: Ints, confidence: Floats) -> Floats:
    probabilities = np.empty((len(predicted), 2))
    rows = np.arange(len(predicted))
    probabilities[rows, predicted], probabilities[rows, 1 - predicted] = confidence, 1 - confidence
    return probabilities


def _sharper(probabilities: Floats) -> Floats:
    """The probabilities of a model whose logits are too large."""
    powered = np.clip(probabilities, 1e-12, 1) ** _SHARPER
    sharp: Floats = powered / powered.sum(1, keepdims=True)
    return sharp


def _rights(found: Draw) -> tuple[intervals.Flags, intervals.Flags]:
    first, targets, second = found
    return first.argmax(1) == targets, second.argmax(1) == targets


def _recalls(found: Draw) -> list[Figure]:
    right, _ = _rights(found)
    return [intervals.wilson(int(right[found[1] == k].sum()), int((found[1] == k).sum())) for k in (0, 1)]


def _random(found: Draw) -> np.random.Generator:
    """A generator of the set's own, for what its predictions do not decide."""
    return np.random.default_rng(int(1e9 * found[0][0, 0]))


def _pictures(found: Draw) -> Figure:
    """Eleven damaged pictures of each photo, some photos harder than others: 0.9 of them are right."""
    random, n = _random(found), len(found[1])
    return intervals.share_of_clusters(random.uniform(size=(n, _PICTURES)) < random.beta(9, 1, (n, 1)))


def _reviewed(found: Draw) -> Production:
    """The estimate for a million answers, of which a set's photos are reviewed, half in each stratum."""
    random, n = _random(found), len(found[1]) // 2
    strata = []
    for share, right, neither, cannot_tell in _ANSWERED:
        shown = 1 - neither - cannot_tell
        counts = random.multinomial(n, (shown * right, shown * (1 - right), neither, cannot_tell))
        strata.append(Stratum(round(1e6 * share), n, int(counts[0]), int(counts[2]), int(counts[3])))
    return production(strata)


FIGURES: Final[dict[str, Callable[[Draw], Figure]]] = {
    "accuracy, recall and other shares (Wilson)": lambda d: metrics.accuracy(d[0], d[1]),
    "mean recall of the classes (MOVER)": lambda d: metrics.macro_accuracy(_recalls(d)),
    "log loss (bootstrap-t)": lambda d: intervals.mean(metrics.losses(d[0], d[1])),
    "Brier score (bootstrap-t)": lambda d: intervals.mean(metrics.brier_scores(d[0], d[1])),
    "ECE of a calibrated model": lambda d: metrics.calibration_error(d[0], d[1]),
    "ECE of a model that is too sure": lambda d: metrics.calibration_error(_sharper(d[0]), d[1]),
    "area under the ROC curve (Newcombe)": lambda d: metrics.roc_auc(d[0], d[1]),
    "difference of two models, same photos (Tango)": lambda d: intervals.paired_difference(*_rights(d)),
    "difference of two models, other photos (Newcombe)": lambda d: intervals.difference(
        *(intervals.wilson(int(half.sum()), len(half)) for half in (_rights(d)[0][::2], _rights(d)[1][1::2]))
    ),
    "ratio of two log losses, same photos (bootstrap-t)": lambda d: intervals.ratio_of_means(
        metrics.losses(d[2], d[1]), metrics.losses(d[0], d[1])
    ),
    "share of damaged pictures, eleven of each photo (design effect)": _pictures,
    "median of ratios (order statistics)": lambda d: intervals.median(_random(d).lognormal(size=len(d[1]))),
    "production accuracy, from reviewed photos of two strata (MOVER)": lambda d: _reviewed(d).accuracy,
    "production share of none of the classes, likewise (MOVER)": lambda d: _reviewed(d).neither,
}
"""Every kind of interval that is published, as a figure of a set."""


def _truth(name: str, population: Draw) -> float:
    """A figure of the population, whose own interval is negligible; a calibrated model's ECE is 0."""
    if name == "ECE of a calibrated model":
        return 0.0
    if name == "ECE of a model that is too sure":
        return metrics.expected_calibration_error(_sharper(population[0]), population[1])
    first, targets, second = population
    right, other = _rights(population)
    recalls = [right[targets == k].mean() for k in (0, 1)]
    shares, rights, neither, cannot_tell = np.array(_ANSWERED).T
    shown = 1 - neither / (1 - cannot_tell)  # of the photos that somebody can tell
    known = {
        "production accuracy": (shares * shown * rights).sum() / (shares * shown).sum(),
        "production share": (shares * (1 - shown)).sum(),
        "accuracy": right.mean(),
        "mean": np.mean(recalls),
        "log": metrics.losses(first, targets).mean(),
        "Brier": metrics.brier_scores(first, targets).mean(),
        "area": metrics.roc_auc(first, targets).value,
        "difference": right.mean() - other.mean(),
        "share": 0.9,
        "median": 1.0,
        "ratio": metrics.losses(second, targets).mean() / metrics.losses(first, targets).mean(),
    }
    return float(next(value for start, value in known.items() if name.startswith(start)))


def study(sets: int) -> Coverages:
    """Draw `sets` sets of each size; count how often each interval holds the truth."""
    population = draw(_POPULATION, np.random.default_rng(0))
    truths = {name: _truth(name, population) for name in FIGURES}

    def one(key: tuple[int, int]) -> list[tuple[bool, float]]:
        found = draw(key[0], np.random.default_rng(key))
        figures = {name: compute(found) for name, compute in FIGURES.items()}
        return [(f.low <= truths[name] <= f.high, f.high - f.low) for name, f in figures.items()]

    keys = [(n, 1 + seed) for n in SIZES for seed in range(sets)]
    results = np.array(map_on_cores(one, keys, "intervals")).reshape(len(SIZES), sets, len(FIGURES), 2)
    return Coverages(
        sets,
        [
            Coverage(
                name,
                n,
                truths[name],
                intervals.wilson(int(results[i, :, k, 0].sum()), sets),
                float(np.nanmedian(results[i, :, k, 1])),
            )
            for k, name in enumerate(FIGURES)
            for i, n in enumerate(SIZES)
        ],
    )


def as_markdown(found: Coverages) -> str:
    """A line for each figure: coverage by number of photos."""
    header = " | ".join(f"n = {n:,}" for n in SIZES)
    lines = [f"| interval | truth | {header} |", "| --- " * (2 + len(SIZES)) + "|"]
    for name in FIGURES:
        rows = [row for row in found.rows if row.figure == name]
        cells = [f"{row.held.value:.1%} [{row.held.low:.1%}, {row.held.high:.1%}]" for row in rows]
        digits = 2 - math.floor(math.log10(abs(rows[0].truth))) if rows[0].truth else 1
        lines.append(f"| {name} | {rows[0].truth:.{max(1, digits)}f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(options: argparse.Namespace) -> int:
    """Run the study and write it; return 0."""
    found = study(options.sets)
    text = as_markdown(found)
    write_json(options.out / "intervals.json", found)
    write_text(options.out / "table.md", text + "\n")
    print(text)
    return 0
