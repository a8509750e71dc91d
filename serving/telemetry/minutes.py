"""The latest minutes of a service, for the page `/status`: a look at the counters each quarter of a minute.

`serving.http.app` starts `watch`; `GET /status/minutes` returns the `report`. A request does nothing for it:
the counters are those of the metrics, and what lies between two looks is their difference.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample

from serving.contract.reference import ALARM_DISTANCE, ALARM_Z, LEAST_PHOTOS, alarms
from serving.telemetry.drift import DriftMonitor
from serving.telemetry.metrics import Metrics

PERIOD_SECONDS: Final = 15
PERIODS: Final = 60
"""Periods that are kept: fifteen minutes."""
_LEAST_FOR_P99: Final = 100
_LEAST_FOR_SHARE: Final = 100


class Period(msgspec.Struct, frozen=True):
    """What happened between two looks."""

    ended_seconds_ago: float
    outcomes: dict[str, int]
    """Answers to `/predict` by outcome, of those that occurred: ok, or the problem's code."""
    mean_ms: float | None
    """Mean time from a complete request to its prediction; null without one."""
    p99_ms: float | None
    """Its 99th percentile, within the buckets of the histogram; null with too few predictions."""
    uncertain: int
    unfamiliar: int
    drift: dict[str, float]
    """Distance from the reference by quantity, at its end; empty with too few photos in the window."""


class Quantity(msgspec.Struct, frozen=True):
    """How far a quantity is from the reference now."""

    name: str
    distance: float
    z: float
    drifted: bool


class Window(msgspec.Struct, frozen=True):
    """The latest photos compared with the reference."""

    photos: int
    least: int = LEAST_PHOTOS
    """Photos that a judgement needs; without them there are no quantities."""
    distance: float = ALARM_DISTANCE
    z: float = ALARM_Z
    """A quantity has drifted with both a larger distance and a larger z."""
    quantities: list[Quantity] = []
    estimated_accuracy: float | None = None


class MinutesReport(msgspec.Struct, frozen=True):
    """The answer to `GET /status/minutes`."""

    period_seconds: int
    periods: list[Period]
    """Oldest first; the last one is not over."""
    together: Period
    """All of them as one."""
    kept: int = PERIODS
    least_for_p99: int = _LEAST_FOR_P99
    least_for_share: int = _LEAST_FOR_SHARE
    drift: Window | None = None
    """Null if the model has no drift reference."""
    labelled: int = 0
    """Latest answers whose right label somebody sent."""
    labelled_right: float | None = None
    """Share of them that was right; null with too few for a share."""


@dataclass(frozen=True, slots=True)
class Look:
    """The counters at one time."""

    at: float
    outcomes: Mapping[str, int]
    buckets: Sequence[tuple[float, int]]
    """Upper edge in seconds, and predictions that took at most so long."""
    seconds: float
    """Time of all predictions together."""
    uncertain: int
    unfamiliar: int
    drift: Mapping[str, float]


class Minutes:
    """The looks of the latest minutes."""

    def __init__(self, metrics: Metrics, drift: DriftMonitor, clock: Callable[[], float]) -> None:
        self._metrics, self._drift, self._clock = metrics, drift, clock
        self._looks: deque[Look] = deque(maxlen=PERIODS)

    async def watch(self) -> None:
        """Look at the counters each period, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(PERIOD_SECONDS)

    def look(self) -> None:
        """Keep what the counters say now."""
        self._looks.append(self._now())

    def report(self) -> MinutesReport:
        """What happened from look to look, and since the last one."""
        looks = [*self._looks, self._now()]
        now = looks[-1].at
        labelled = int(_samples(self._metrics.feedback_window)[0].value)
        return MinutesReport(
            PERIOD_SECONDS,
            [_between(first, last, now) for first, last in pairwise(looks)],
            _between(looks[0], looks[-1], now),
            drift=self._window(),
            labelled=labelled,
            labelled_right=_samples(self._metrics.feedback_accuracy)[0].value
            if labelled >= _LEAST_FOR_SHARE
            else None,
        )

    def _now(self) -> Look:
        latency = {(s.name, s.labels.get("le")): s.value for s in _samples(self._metrics.latency)}
        window = self._window()
        return Look(
            self._clock(),
            self._metrics.outcomes(),
            [(float(edge), int(value)) for (_, edge), value in latency.items() if edge],
            next(value for (name, _), value in latency.items() if name.endswith("_sum")),
            _count(self._metrics.uncertain),
            _count(self._metrics.unfamiliar),
            {one.name: one.distance for one in window.quantities} if window else {},
        )

    def _window(self) -> Window | None:
        window = self._drift.window
        if window.reference is None:
            return None
        if window.photos < LEAST_PHOTOS:
            return Window(window.photos)
        return Window(
            window.photos,
            quantities=[
                Quantity(name, found.distance, found.z, alarms(found.distance, found.z))
                for name, found in window.drifts().items()
            ],
            estimated_accuracy=window.estimated_accuracy()[0],
        )


def _samples(metric: MetricWrapperBase) -> Sequence[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]


def _count(metric: MetricWrapperBase) -> int:
    return int(next(sample.value for sample in _samples(metric) if sample.name.endswith("_total")))


def _between(first: Look, last: Look, now: float) -> Period:
    counts = {code: count - first.outcomes.get(code, 0) for code, count in last.outcomes.items()}
    both = zip(last.buckets, first.buckets, strict=True)
    buckets = [(edge, after - before) for (edge, after), (_, before) in both]
    predicted = buckets[-1][1]
    return Period(
        round(now - last.at, 1),
        {code: count for code, count in counts.items() if count},
        round(1000 * (last.seconds - first.seconds) / predicted, 2) if predicted else None,
        round(1000 * quantile(buckets, 0.99), 2) if predicted >= _LEAST_FOR_P99 else None,
        last.uncertain - first.uncertain,
        last.unfamiliar - first.unfamiliar,
        dict(last.drift),
    )


def quantile(buckets: Sequence[tuple[float, int]], share: float) -> float:
    """A quantile of a histogram, linear within its bucket, as Prometheus has it.

    Args:
        buckets: Upper edges, the last one infinite, with the count of all values up to each; not all 0.
        share: 0 to 1.
    """
    rank = share * buckets[-1][1]
    low, below = 0.0, 0
    for edge, count in buckets:
        if count >= rank:
            return low if math.isinf(edge) else low + (edge - low) * (rank - below) / (count - below)
        low, below = edge, count
    return low
