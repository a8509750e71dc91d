"""The latest minutes, from looks at the counters by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serving.contract.artifact import Artifact
from serving.contract.reference import LEAST_PHOTOS, make_reference
from serving.settings import Settings
from serving.telemetry.drift import DriftMonitor
from serving.telemetry.metrics import Metrics
from serving.telemetry.minutes import PERIOD_SECONDS, PERIODS, Minutes, quantile
from tests import tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene


class Clock:
    """Seconds that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def parts() -> tuple[Minutes, Metrics, DriftMonitor, Clock]:
    """Counters that nothing has counted into."""
    registry, clock = CollectorRegistry(), Clock()
    metrics, drift = Metrics(registry), DriftMonitor(registry, 1000)
    return Minutes(metrics, drift, clock), metrics, drift, clock


def test_a_period_is_what_came_between_two_looks(parts: tuple[Minutes, Metrics, DriftMonitor, Clock]):
    """And the last one what came since; all of them together are the latest minutes."""
    minutes, metrics, _, clock = parts
    metrics.requests.labels("ok").inc(5)  # before the first look
    minutes.look()
    for seconds in (0.010, 0.030):
        metrics.requests.labels("ok").inc()
        metrics.latency.observe(seconds)
    metrics.uncertain.inc()
    clock.now = 15
    minutes.look()
    metrics.requests.labels("empty").inc()
    metrics.unfamiliar.inc()
    clock.now = 18
    report = minutes.report()
    first, last = report.periods
    assert (first.ended_seconds_ago, first.outcomes, first.mean_ms) == (3, {"ok": 2}, 20)
    assert (last.ended_seconds_ago, last.outcomes, last.mean_ms) == (0, {"empty": 1}, None)
    assert (report.together.outcomes, report.together.uncertain) == ({"ok": 2, "empty": 1}, 1)
    assert [(period.uncertain, period.unfamiliar) for period in report.periods] == [(1, 0), (0, 1)]


def test_a_percentile_needs_photos(parts: tuple[Minutes, Metrics, DriftMonitor, Clock]):
    """The 99th of two would be the slower of them."""
    minutes, metrics, _, _ = parts
    minutes.look()
    for _ in range(99):
        metrics.latency.observe(0.012)
    assert minutes.report().together.p99_ms is None
    metrics.latency.observe(0.012)
    assert 10 < minutes.report().together.p99_ms <= 20


def test_old_periods_are_forgotten(parts: tuple[Minutes, Metrics, DriftMonitor, Clock]):
    """A service that has run for a month keeps a quarter of an hour."""
    minutes, metrics, _, clock = parts
    for _ in range(3 * PERIODS):
        metrics.requests.labels("ok").inc()
        minutes.look()
        clock.now += PERIOD_SECONDS
    report = minutes.report()
    assert len(report.periods) == PERIODS
    assert report.together.outcomes == {"ok": PERIODS - 1}


def test_drift_is_judged_from_enough_photos_on(parts: tuple[Minutes, Metrics, DriftMonitor, Clock]):
    """Until then there is no distance to take for one; without a reference there is nothing."""
    minutes, _, drift, _ = parts
    assert minutes.report().drift is None
    values = [{"brightness": i / 200, "confidence": 0.9} for i in range(200)]
    drift.serve(Artifact(tiny.card(), [], "0" * 64), make_reference(values, 2))
    for _ in range(LEAST_PHOTOS - 1):
        drift.window.add({"brightness": 0.99, "confidence": 0.9})
    few = minutes.report().drift
    assert (few.photos, few.quantities, few.estimated_accuracy) == (LEAST_PHOTOS - 1, [], None)
    minutes.look()
    drift.window.add({"brightness": 0.99, "confidence": 0.9})
    report = minutes.report()
    judged = {quantity.name: quantity.drifted for quantity in report.drift.quantities}
    assert judged == {"brightness": True, "confidence": False}
    assert report.drift.estimated_accuracy == pytest.approx(0.9)
    assert report.periods[-1].drift["brightness"] > report.drift.distance


def test_a_quantile_lies_within_its_bucket():
    """As Prometheus computes it."""
    inf = float("inf")
    assert quantile([(0.1, 0), (0.2, 10), (inf, 10)], 0.5) == pytest.approx(0.15)
    assert quantile([(0.1, 5), (0.2, 10), (inf, 20)], 0.99) == 0.2


@pytest.fixture
def guarded(model: Path) -> Iterator[Client]:
    """A service with a key."""
    with running(Settings(model=str(model), workers=1, api_key="secret")) as client:
        yield client


def test_the_page_gets_the_latest_minutes_with_the_key(guarded: Client):
    """As the metrics, which say the same; nothing keeps a copy."""
    key = {"X-API-Key": "secret"}
    assert guarded.get("/status/minutes").status_code == 401
    guarded.post("/predict", content=encode(scene()), headers=key)
    reply = guarded.get("/status/minutes", headers=key)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json()["together"]["outcomes"] == {"ok": 1}
