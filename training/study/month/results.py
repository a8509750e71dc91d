"""Simulated months in, the study's figures and tables out.

An interval holds 95 % of the months: the mean over the seeds, plus and minus 1.96 standard deviations. Each
seed measures on a random part of the photos, so the deviation covers the choice of the photos as well as
that of the labels (half-samples, McCarthy 1969); a standard error over the seeds would not, since all of them
share one set of photos. Policies are compared seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from evaluation.figures.intervals import Z_95, Figure
from training.study.month.seasons import DAYS, SEASONS
from training.study.month.simulation import NO_LOOP, POLICIES, Month, Policy

CONTRASTS: Final = tuple(
    (one, other)
    for place, one in enumerate(POLICIES)
    for other in POLICIES[:place]
    if NO_LOOP not in (one, other) and (one.chosen == other.chosen) != (one.on_drift == other.on_drift)
)
"""Policies that differ in one thing."""


class Line(msgspec.Struct, frozen=True):
    """One policy over the month; each n is the number of seeds."""

    policy: str
    accuracy_by_day: list[Figure]
    points_gained_by_day: list[Figure]
    """Accuracy in percentage points above no loop, of the same seed."""
    distance_by_day: list[Figure]
    """Of the quantity that is furthest from the reference, at the end of the day."""
    labels_by_day: list[Figure]
    """Spent by the end of the day."""
    released_by_day: list[float]
    """Share of the seeds with a release."""
    refused_by_day: list[float]
    """Share of the seeds in which the gate refuses a model."""
    accuracy: Figure
    """Mean over the days."""
    accuracy_by_season: dict[str, Figure]
    labels: Figure
    releases: Figure
    refusals: Figure
    points_gained: Figure
    """Accuracy in percentage points above no loop, of the same seed."""
    points_per_100_labels: Figure
    """NaN without labels."""


class Contrast(msgspec.Struct, frozen=True):
    """Two policies, seed by seed: the first minus the second."""

    first: str
    second: str
    points: Figure
    """Of accuracy."""
    labels: Figure


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """All policies: `build/month/month.json`."""

    model: str
    """Name and version of the released model."""
    photos: int
    """Of validation."""
    seeds: int
    lines: list[Line]
    contrasts: list[Contrast]


def spread(values: Sequence[float]) -> Figure:
    """The mean of a value per seed, with the interval that holds 95 % of the months."""
    mean = float(np.mean(values))
    around = Z_95 * float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Figure(mean, mean - around, mean + around, len(values))


def summarise(model: str, photos: int, months: dict[str, list[Month]]) -> Study:
    """Figures of all policies.

    Args:
        model: Name and version of the released model.
        photos: How many there are.
        months: By policy, one for each seed, in the same order.
    """
    return Study(
        model=model,
        photos=photos,
        seeds=len(months[NO_LOOP.name]),
        lines=[_line(policy, months[policy.name], months[NO_LOOP.name]) for policy in POLICIES],
        contrasts=[_contrast(one, other, months) for one, other in CONTRASTS],
    )


def _line(policy: Policy, months: list[Month], without: list[Month]) -> Line:
    days = range(DAYS)
    gained = _points(months, without)
    spent = [month.labels[-1] for month in months]
    ends = [season.first for season in SEASONS[1:]] + [DAYS + 1]
    return Line(
        policy=policy.name,
        accuracy_by_day=[spread([month.accuracy[day] for month in months]) for day in days],
        points_gained_by_day=[
            spread([100 * (a.accuracy[day] - b.accuracy[day]) for a, b in zip(months, without, strict=True)])
            for day in days
        ],
        distance_by_day=[spread([month.distance[day] for month in months]) for day in days],
        labels_by_day=[spread([month.labels[day] for month in months]) for day in days],
        released_by_day=[float(np.mean([day + 1 in month.released for month in months])) for day in days],
        refused_by_day=[float(np.mean([day + 1 in month.refused for month in months])) for day in days],
        accuracy=spread([float(np.mean(month.accuracy)) for month in months]),
        accuracy_by_season={
            f"{season.name}, days {season.first} to {end - 1}": spread(
                [float(np.mean(month.accuracy[season.first - 1 : end - 1])) for month in months]
            )
            for season, end in zip(SEASONS, ends, strict=True)
        },
        labels=spread(spent),
        releases=spread([len(month.released) for month in months]),
        refusals=spread([len(month.refused) for month in months]),
        points_gained=spread(gained),
        points_per_100_labels=spread(
            [
                100 * points / labels if labels else math.nan
                for points, labels in zip(gained, spent, strict=True)
            ]
        ),
    )


def _points(first: list[Month], second: list[Month]) -> list[float]:
    """Difference in the month's accuracy of each seed, in percentage points."""
    return [
        100 * float(np.mean(one.accuracy) - np.mean(other.accuracy))
        for one, other in zip(first, second, strict=True)
    ]


def _contrast(one: Policy, other: Policy, months: dict[str, list[Month]]) -> Contrast:
    first, second = months[one.name], months[other.name]
    return Contrast(
        first=one.name,
        second=other.name,
        points=spread(_points(first, second)),
        labels=spread([a.labels[-1] - b.labels[-1] for a, b in zip(first, second, strict=True)]),
    )
