"""Results of the `evaluation.service` commands: records for gates, JSON and pages."""

from __future__ import annotations

from typing import Any

import msgspec

from evaluation.figures.intervals import Figure
from evaluation.figures.metrics import Evaluation


class AgainstTest(msgspec.Struct, frozen=True):
    """Live accuracy compared with that of the model's card."""

    test_accuracy: float
    """By the service's `/health`."""
    test_n: int
    """Photos behind it."""
    split: str
    """`test`, or `validation` for a model that is not released."""
    difference: Figure
    """Live minus test."""


class Far(msgspec.Struct, frozen=True):
    """A photo on which the service differs from the offline handler."""

    path: str
    """Path of the photo."""
    difference: float
    """Largest difference of a probability."""


class Consistency(msgspec.Struct, frozen=True):
    """The service's predictions compared with the offline handler's on the same bytes."""

    expected_sha256: str
    """Of the artefact that should be served."""
    same_model: float
    """1 if the service reports that artefact, else 0."""
    photos: int
    """Photos with a prediction."""
    largest_difference: float
    """Of a probability, over all photos."""
    allowed_difference: float
    """Difference that the artefact's own probe allows."""
    times_allowed: float | None
    """The largest difference divided by the allowed one; None if nothing was answered."""
    other_answers: int | None
    """Photos with another prediction, or refused by one of the two; None if nothing was answered."""
    farthest: list[Far]
    """Photos with the largest differences."""


class Live(msgspec.Struct, frozen=True, omit_defaults=True):
    """A running service on labelled photos: `reports/live/live.json`."""

    model: dict[str, str]
    """Name, version and sha256, as the service reports them."""
    deployment: str
    """Name of the deployment, as the service reports it."""
    photos: int
    """Photos sent."""
    answered: int
    """Photos with a prediction."""
    failed_share: float
    """Share of photos without one."""
    slow_share: Figure
    """Share of photos without a prediction within 0.5 s, the objective, as the client measured it."""
    errors: dict[str, int]
    """Photos by type of problem, or kind of connection failure."""
    retries: int
    """Repeated requests."""
    throughput_per_second: float
    """Photos, failed ones included."""
    latency_ms: dict[str, float]
    """Percentiles as the client measured them: p50, p90, p95, p99; empty if nothing was answered."""
    service_ms: dict[str, dict[str, float]]
    """Percentiles by stage, as the service measured them."""
    measured: Evaluation | None
    """None if nothing was answered; in the JSON its fields are among the others."""
    against_test: AgainstTest | None = None
    """None where the service does not report its test accuracy."""
    consistency: Consistency | None = None
    """None without an artefact to compare with."""

    @property
    def accuracy(self) -> Figure | None:
        """Share of predictions that are right."""
        return self.measured.accuracy if self.measured else None

    @property
    def ece(self) -> Figure | None:
        """Expected calibration error."""
        return self.measured.ece if self.measured else None

    @property
    def latency_p50_ms(self) -> float | None:
        """Median, as the client measured it."""
        return self.latency_ms.get("p50")

    @property
    def latency_p99_ms(self) -> float | None:
        """99th percentile, as the client measured it."""
        return self.latency_ms.get("p99")

    @property
    def difference_to_test(self) -> Figure | None:
        """Accuracy minus that on the test split; None where the service does not report the latter."""
        return self.against_test.difference if self.against_test else None

    def as_json(self) -> dict[str, Any]:
        """The record for JSON, with the measured figures among the others."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        measured = content.pop("measured")
        return content | (measured or {})


class Quantity(msgspec.Struct, frozen=True):
    """One quantity of the photos, in the reference and in the window."""

    edges: list[float]
    """Inner edges of the bins, rising."""
    reference: list[int]
    """The reference's photos by bin, one more than there are edges."""
    window: list[int]
    """The window's photos by bin."""
    distance: float | None
    """Jensen-Shannon, 0 to 1; None for an empty window."""
    z: float | None
    """Two-sample chi-square test as a standard normal deviate; None for an empty window."""


class Window(msgspec.Struct, frozen=True):
    """The service's latest photos, as `GET /drift` reports them."""

    photos: int
    """Photos in the window."""
    quantities: dict[str, Quantity]
    """By name; empty if the model has no reference."""
    size: int = 0
    """Photos that the window can hold."""
    reference_photos: int = 0
    """Photos behind the reference."""
    reference_source: str = "validation"
    """Which photos these are."""
    estimated_accuracy: float | None = None
    """Mean confidence; None for an empty window."""
    estimated_accuracy_error: float | None = None
    """Half of its 95 % interval."""
