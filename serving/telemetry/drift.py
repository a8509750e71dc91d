"""How far the latest photos are from the validation photos: observations in, gauges and a report out.

`serving.service` lists the monitor among the observers; `GET /drift` returns its report.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.contract.artifact import Artifact
from serving.contract.reference import Drift, DriftReport, QuantityReport, Reference, compare
from serving.observation import Observation


class Window:
    """The latest photos of a service, counted into the bins of the reference. Not thread-safe."""

    def __init__(self, reference: Reference, size: int) -> None:
        self.reference, self.size = reference, size
        self._photos: deque[tuple[dict[str, int], float]] = deque(maxlen=size)
        self._counts = {name: [0] * len(known.counts) for name, known in reference.quantities.items()}

    def add(self, values: Mapping[str, float]) -> None:
        """Count one photo; in a full window it replaces the oldest."""
        bins = {
            name: bisect_right(known.edges, values[name])
            for name, known in self.reference.quantities.items()
            if name in values
        }
        if len(self._photos) == self.size:
            for name, number in self._photos[0][0].items():
                self._counts[name][number] -= 1
        self._photos.append((bins, values["confidence"]))
        for name, number in bins.items():
            self._counts[name][number] += 1

    @property
    def photos(self) -> int:
        """Number of photos in the window."""
        return len(self._photos)

    def drifts(self) -> dict[str, Drift]:
        """Distance and test by quantity; empty for an empty window."""
        return {
            name: compare(known.counts, self._counts[name])
            for name, known in self.reference.quantities.items()
            if sum(self._counts[name])
        }

    def estimated_accuracy(self) -> float:
        """Mean confidence: the share of right answers if the calibration still holds; NaN if empty."""
        confidences = [confidence for _, confidence in self._photos]
        return math.fsum(confidences) / len(confidences) if confidences else math.nan

    def report(self) -> DriftReport:
        """The window alongside the reference."""
        drifts = self.drifts()
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
                for name, known in self.reference.quantities.items()
            },
            size=self.size,
            reference_photos=self.reference.photos,
            estimated_accuracy=self.estimated_accuracy() if self.photos else None,
        )


class DriftMonitor(Collector):
    """The window of the served model, compared with the reference at each scrape, not at each request."""

    def __init__(self, registry: CollectorRegistry, size: int) -> None:
        """`size` is the number of latest photos in a full window."""
        self._size = size
        self._artifact: Artifact | None = None
        self.window: Window | None = None
        """None unless the served model has a drift reference."""
        registry.register(self)

    def serve(self, artifact: Artifact) -> None:
        """Start an empty window for the model that answers from now on."""
        reference = artifact.card.reference
        self._artifact = artifact
        self.window = Window(reference, self._size) if reference else None

    def observe(self, observation: Observation) -> None:
        """Count a photo that the current model answered."""
        if self.window and observation.quantities and observation.artifact is self._artifact:
            self.window.add(observation.quantities)

    def report(self) -> DriftReport:
        """The answer to `GET /drift`."""
        return self.window.report() if self.window else DriftReport(photos=0, quantities={})

    def collect(self) -> Iterable[Metric]:
        """The window's distances, tests and estimate; nothing if the model has no drift reference."""
        if self.window is None:
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
        accuracy.add_metric([], self.window.estimated_accuracy())
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
