"""The Prometheus metrics: one `Metrics` per process, on a registry that is passed in.

It observes each computed photo; the engine, the routes and the models count the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from serving.contract.answer import Answer
from serving.contract.artifact import Artifact
from serving.observation import Observation

_LATENCY_SECONDS: Final = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
_STAGE_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_PROBABILITY: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_DIFFERENCE: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BYTES: Final = (4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6)
_PIXELS: Final = (64, 128, 224, 448, 896, 1792, 3584, 7168, 16384)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_USUAL_STATUSES: Final = (200, 500)
OTHER: Final = "other"
_MOST_LABELS: Final = 100
"""Labels of a model with a series of their own; further ones are counted together, as `other`."""
BOUNDS: Final = ("value", "low", "high")
"""What is exposed of the accuracy on the card."""
DROP_REASONS: Final = ("backlog", "failed", "duplicate")
"""Why an answer was not stored for feedback."""
REVIEW_REASONS: Final = ("uncertain", "unfamiliar", "shadow", "told-wrong", "sample", "suspect")
"""Why a photo is kept for review."""
REVIEW_DROP_REASONS: Final = ("backlog", "failed", "duplicate", "same-id")
"""Why a photo, or its bytes, was not kept for review."""
CLOSE_REASONS: Final = (
    *("silent", "idle", "unread", "made-room", "refused", "overloaded"),
    *("bad-request", "head-timeout", "head-too-large", "uri-too-long", "http-version", "method-not-allowed"),
)
"""Why the service closed a connection."""
_RATIO: Final = tuple(i / 10 for i in range(1, 11))


class MetricsSummary(msgspec.Struct, frozen=True):
    """The JSON form of `GET /metrics`, since the start of the process."""

    request_count: int
    average_latency_ms: float | None
    """Null before the first computed request."""
    outcomes: dict[str, int]
    """Answers to `/predict` by outcome: ok, or the problem's code."""


class Metrics:
    """The service's metrics; names carry the unit, labels are bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._register_process(registry)
        self._register_requests(registry)
        self._register_photos(registry)
        self._register_feedback(registry)
        self._register_review(registry)
        self._register_models(registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._create_series()

    def _register_process(self, registry: CollectorRegistry) -> None:
        self.responses = Counter(
            "classifier_http_responses_total",
            "Answers on every route; unknown paths and methods are those of the route and method other.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.log_lines_dropped = Counter(
            "classifier_log_lines_dropped_total",
            "Lines of the log that were dropped because nobody took them in time.",
            registry=registry,
        )
        self.loop_lag = Gauge(
            "classifier_event_loop_lag_seconds",
            "Longest delay of the event loop in the last minute: how late a timer of its own fired.",
            registry=registry,
        )
        self.open_connections = Gauge(
            "classifier_open_connections", "Connections that are open.", registry=registry
        )
        self.max_connections = Gauge(
            "classifier_max_connections", "Connections that may be open.", registry=registry
        )
        self.connections_closed = Counter(
            "classifier_connections_closed_total",
            "Connections that the service closed before a caller did, by reason.",
            ["reason"],
            registry=registry,
        )
        self.held_bytes = Gauge(
            "classifier_held_bytes", "Bytes of request bodies held until their answers.", registry=registry
        )
        self._answered: dict[tuple[str, str, int], Counter] = {}

    def _register_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "classifier_requests_total",
            "Answers to /predict by outcome: ok, or the problem's code.",
            ["outcome"],
            registry=registry,
        )
        self.latency = Histogram(
            "classifier_request_duration_seconds",
            "Time from a complete /predict request to its prediction.",
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.stage = Histogram(
            "classifier_stage_duration_seconds",
            "Time that a computed request spends in each stage: queue, decode, infer.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "classifier_queue_depth", "Requests waiting for a worker.", registry=registry
        )
        self.stuck_workers = Gauge(
            "classifier_stuck_workers",
            "Workers that were replaced because they did not return in time, and have not ended.",
            registry=registry,
        )
        self.explanations = Counter(
            "classifier_explanations_total",
            "Answers to /explain by outcome: ok, or the problem's code.",
            ["outcome"],
            registry=registry,
        )
        self.explanation = Histogram(
            "classifier_explanation_duration_seconds",
            "Time from a complete /explain request to its heat map.",
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "classifier_in_flight", "Requests that workers are computing.", registry=registry
        )
        self.rejected = Counter(
            "classifier_rejected_total",
            "Requests that the engine did not compute, by reason.",
            ["reason"],
            registry=registry,
        )

    def _register_photos(self, registry: CollectorRegistry) -> None:
        self.predictions = Counter(
            "classifier_predictions_total",
            "Predictions by label; of a model with more than 100, the later ones count as other.",
            ["label"],
            registry=registry,
        )
        self.probability = Histogram(
            "classifier_prediction_probability",
            "Probability of the predicted label.",
            buckets=_PROBABILITY,
            registry=registry,
        )
        self.uncertain = Counter(
            "classifier_predictions_uncertain_total",
            "Predictions below the model's abstain threshold.",
            registry=registry,
        )
        self.unfamiliar = Counter(
            "classifier_predictions_unfamiliar_total",
            "Predictions on photos that look unlike any training photo.",
            registry=registry,
        )
        self.input_bytes = Histogram(
            "classifier_input_size_bytes", "Encoded size of an image.", buckets=_BYTES, registry=registry
        )
        self.input_side = Histogram(
            "classifier_input_longest_side_pixels",
            "Longest side of an image.",
            buckets=_PIXELS,
            registry=registry,
        )
        self.input_brightness = Histogram(
            "classifier_input_brightness_ratio",
            "Mean brightness of an image: 0 black, 1 white.",
            buckets=_RATIO,
            registry=registry,
        )

    def _register_feedback(self, registry: CollectorRegistry) -> None:
        self.feedback = Counter(
            "classifier_feedback_total",
            "Labels that clients sent, by whether the answer was right or wrong.",
            ["answer"],
            registry=registry,
        )
        self.feedback_accuracy = Gauge(
            "classifier_feedback_accuracy_ratio",
            "Share of right answers among the latest labelled ones, at most 1,000; NaN without any.",
            registry=registry,
        )
        self.feedback_window = Gauge(
            "classifier_feedback_window_labels", "Labelled answers in that share.", registry=registry
        )
        self.feedback_dropped = Counter(
            "classifier_feedback_dropped_answers_total",
            "Answers that were not stored, by reason: the disk was too slow or failed, or the request id is "
            "that of an earlier answer.",
            ["reason"],
            registry=registry,
        )

    def _register_review(self, registry: CollectorRegistry) -> None:
        self.review_photos = Gauge(
            "classifier_review_photos",
            "Photos that wait for a person's verdict, as of the last minute or verdict.",
            registry=registry,
        )
        self.review_kept = Counter(
            "classifier_review_kept_total",
            "Photos kept for review, by reason; a photo may have several.",
            ["reason"],
            registry=registry,
        )
        self.review_dropped = Counter(
            "classifier_review_dropped_total",
            "Photos that were not kept for review though there was a reason to: the disk was too slow or "
            "failed, one that looks the same stands for it, or the request id is that of an earlier one.",
            ["reason"],
            registry=registry,
        )

    def _register_models(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge("classifier_ready", "1 while the service is ready.", registry=registry)
        self.model = Info("classifier_model", "The model that is served.", registry=registry)
        self.model_accuracy = Gauge(
            "classifier_model_accuracy_ratio",
            "Accuracy of the served model by its card (on test if released, else on validation), and its "
            "95 % interval: value, low, high.",
            ["bound"],
            registry=registry,
        )
        self.reloads = Counter(
            "classifier_model_reloads_total",
            "Attempts to reload the model.",
            ["outcome"],
            registry=registry,
        )
        self.shadow = Counter(
            "classifier_shadow_total",
            "Photos offered to the shadow model by outcome: agreed, disagreed, dropped or failed.",
            ["outcome"],
            registry=registry,
        )
        self.shadow_difference = Histogram(
            "classifier_shadow_difference_ratio",
            "Largest difference in a probability between the served and the shadow model.",
            buckets=_DIFFERENCE,
            registry=registry,
        )
        self.shadow_model = Info("classifier_shadow_model", "The shadow model.", registry=registry)

    def _create_series(self) -> None:
        """Create every series with a known label at the start: only then has its first increase a rate."""
        self.stages = {stage: self.stage.labels(stage) for stage in ("queue", "decode", "infer")}
        for reason in ("queue-full", "too-slow", "no-room", "deadline", "disconnected"):
            self.rejected.labels(reason)
        for reason in DROP_REASONS:
            self.feedback_dropped.labels(reason)
        for reason in REVIEW_REASONS:
            self.review_kept.labels(reason)
        for reason in REVIEW_DROP_REASONS:
            self.review_dropped.labels(reason)
        for outcome in ("ok", "failed"):
            self.reloads.labels(outcome)
        self.feedback_accuracy.set(math.nan)
        for answer in ("right", "wrong"):
            self.feedback.labels(answer)
        for outcome in ("agreed", "disagreed", "dropped", "failed"):
            self.shadow.labels(outcome)
        for reason in CLOSE_REASONS:
            self.connections_closed.labels(reason)

    def expect(self, outcomes: Iterable[str], routes: Iterable[tuple[str, str]]) -> None:
        """Create the series that only the routes know.

        Args:
            outcomes: Each that an answer to /predict or /explain can have.
            routes: Each route with each of its methods.
        """
        for outcome in outcomes:
            self.requests.labels(outcome)
            self.explanations.labels(outcome)
        self.explanations.labels("not-explainable")
        for route, method in routes:
            for status in _USUAL_STATUSES:
                self.responses.labels(route, method, status)

    def answered(self, route: str, method: str, status: int) -> None:
        """Count one answer of any route, the protocol's own included.

        Args:
            route: The route as it is declared; `OTHER` for a path that is none.
            method: The method as it was sent; those that HTTP does not know become `OTHER`.
            status: The status.
        """
        key = route, method if method in METHODS else OTHER, status
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered[key] = self.responses.labels(*key)
        counter.inc()

    def serve(self, artifact: Artifact) -> None:
        """Publish the model that answers from now on."""
        card = artifact.card
        self.model.info({"name": card.name, "version": card.version, "sha256": artifact.sha256})
        accuracy = card.metrics.get("accuracy")
        for bound in BOUNDS:
            self.model_accuracy.labels(bound).set(getattr(accuracy, bound) if accuracy else math.nan)
        for label in card.labels:
            self.predictions.labels(_series(label, card.labels))

    def observe(self, observation: Observation) -> None:
        """Count one computed photo and its measurements."""
        for stage, seconds in observation.seconds.items():
            self.stages[stage].observe(seconds)
        self.input_bytes.observe(len(observation.encoded))
        answer, quantities = observation.answer, observation.quantities
        if not isinstance(answer, Answer):
            return
        self.input_side.observe(quantities["longest_side"])
        self.input_brightness.observe(quantities["brightness"])
        series = _series(answer.prediction, observation.artifact.card.labels)
        self.predictions.labels(series).inc()
        self.probability.observe(answer.probability)
        if answer.uncertain:
            self.uncertain.inc()
        if answer.unfamiliar:
            self.unfamiliar.inc()

    def labelled(self, right: int, count: int) -> None:
        """Publish the live accuracy: of the latest `count` labelled answers, `right` were right."""
        self.feedback_window.set(count)
        self.feedback_accuracy.set(right / count if count else math.nan)

    def outcomes(self) -> dict[str, int]:
        """Answers to `/predict` by outcome, since the start."""
        return {
            sample.labels["outcome"]: int(sample.value)
            for metric in self.requests.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }

    def summary(self) -> MetricsSummary:
        """The counts since the start and the mean latency."""
        outcomes = self.outcomes()
        samples = [sample for metric in self.latency.collect() for sample in metric.samples]
        total = sum(s.value for s in samples if s.name.endswith("_sum"))
        count = sum(s.value for s in samples if s.name.endswith("_count"))
        return MetricsSummary(
            request_count=sum(outcomes.values()),
            average_latency_ms=round(1000 * total / count, 3) if count else None,
            outcomes=outcomes,
        )


def _series(label: str, labels: list[str]) -> str:
    return label if label in labels[:_MOST_LABELS] else OTHER
