"""How far the latest photos are from the reference: observations in, gauges and reports out.

`serving.service` lists the monitor among the observers; `GET /drift` returns its report.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.contract.artifact import Artifact
from serving.contract.reference import (
    Drift,
    DriftReport,
    QuantityReport,
    Reference,
    WindowReport,
    compare,
)
from serving.observation import Observation

_Z_95: Final = 1.96


class Window:
    """The latest photos of a service, counted into the bins of the reference, if any. Not thread-safe."""

    def __init__(self, reference: Reference | None, size: int) -> None:
        self.reference, self.size = reference, size
        self._quantities = reference.quantities if reference else {}
        self._photos: deque[Mapping[str, float]] = deque(maxlen=size)
        self._counts = {name: [0] * len(known.counts) for name, known in self._quantities.items()}

    def add(self, values: Mapping[str, float]) -> None:
        """Count one photo; in a full window it replaces the oldest."""
        if len(self._photos) == self.size:
            self._count(self._photos[0], -1)
        self._photos.append(values)
        self._count(values, 1)

    def _count(self, values: Mapping[str, float], change: int) -> None:
        for name, known in self._quantities.items():
            if name in values:
                self._counts[name][bisect_right(known.edges, values[name])] += change

    @property
    def photos(self) -> int:
        """Number of photos in the window."""
        return len(self._photos)

    def values(self) -> dict[str, list[float]]:
        """A value per photo by quantity, oldest first."""
        names = self._photos[0] if self._photos else ()
        return {name: [photo[name] for photo in self._photos] for name in names}

    def drifts(self) -> dict[str, Drift]:
        """Distance and test by quantity; empty for an empty window."""
        return {
            name: compare(known.counts, self._counts[name])
            for name, known in self._quantities.items()
            if sum(self._counts[name])
        }

    def estimated_accuracy(self) -> tuple[float, float]:
        """Mean confidence, and half of the 95 % interval around it; NaN if empty.

        The share of right answers if the calibration still holds (average confidence: Guillory et al. 2021).
        It does not notice photos on which the model is sure and wrong.
        """
        n, confidences = len(self._photos), [photo["confidence"] for photo in self._photos]
        if not n:
            return math.nan, math.nan
        return math.fsum(confidences) / n, _Z_95 * math.sqrt(math.fsum(p * (1 - p) for p in confidences)) / n

    def report(self) -> DriftReport:
        """The window alongside the reference; nothing without one."""
        if not self.reference:
            return DriftReport(photos=0, quantities={})
        drifts = self.drifts()
        accuracy, error = self.estimated_accuracy() if self.photos else (None, None)
        return DriftReport(
            photos=self.photos,
            quantities={
                name: QuantityReport(
                    edges=known.edges,
                    reference=known.counts,
                    window=list(self._counts[name]),
                    distance=drifts[name].distance if name in drifts else None,
                    z=drifts[name].z if name in drifts else None,
                )
                for name, known in self._quantities.items()
            },
            size=self.size,
            reference_photos=self.reference.photos,
            reference_source=self.reference.source,
            estimated_accuracy=accuracy,
            estimated_accuracy_error=error,
        )


class DriftMonitor(Collector):
    """The window of the served model, compared with the reference at each scrape, not at each request."""

    def __init__(self, registry: CollectorRegistry, size: int) -> None:
        """`size` is the number of latest photos in a full window."""
        self._size = size
        self._artifact: Artifact | None = None
        self.window = Window(None, size)
        registry.register(self)

    def serve(self, artifact: Artifact, reference: Reference | None) -> None:
        """Start an empty window for the model that answers from now on."""
        self._artifact = artifact
        self.window = Window(reference, self._size)

    def observe(self, observation: Observation) -> None:
        """Count a photo that the current model answered."""
        if observation.quantities and observation.artifact is self._artifact:
            self.window.add(observation.quantities)

    def report(self) -> DriftReport:
        """The answer to `GET /drift`."""
        return self.window.report()

    def window_report(self) -> WindowReport:
        """The answer to `GET /drift/window`."""
        return WindowReport(self._artifact.sha256 if self._artifact else "", self.window.values())

    def collect(self) -> Iterable[Metric]:
        """The window's distances, tests and estimate; nothing if the model has no drift reference."""
        if self.window.reference is None:
            return
        photos = GaugeMetricFamily(
            "classifier_drift_window_photos", "Number of latest predictions compared with the reference."
        )
        photos.add_metric([], self.window.photos)
        yield photos
        if not self.window.photos:
            return
        accuracy = GaugeMetricFamily(
            "classifier_drift_estimated_accuracy_ratio",
            "Mean confidence in the window: the share of right answers while the calibration holds.",
        )
        accuracy.add_metric([], self.window.estimated_accuracy()[0])
        distance = GaugeMetricFamily(
            "classifier_drift_distance_ratio",
            "Jensen-Shannon distance between window and reference: 0 identical, 1 nothing in common.",
            labels=["quantity"],
        )
        z = GaugeMetricFamily(
            "classifier_drift_test_z",
            "Two-sample test of window against reference, as a standard normal deviate.",
            labels=["quantity"],
        )
        for quantity, found in self.window.drifts().items():
            distance.add_metric([quantity], found.distance)
            z.add_metric([quantity], found.z)
        yield from (accuracy, distance, z)
