"""The operator's routes: health, liveness, metrics and drift."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, Schema
from msgspec import UNSET, UnsetType
from prometheus_client.exposition import choose_encoder

from serving.contract.card import Lineage, Measured
from serving.contract.reference import DriftReport, WindowReport
from serving.http import problems
from serving.http.authorisation import require_key
from serving.http.openapi import KEY
from serving.http.request import ServiceRequest
from serving.lifecycle import State
from serving.telemetry.metrics import MetricsSummary

_MOST_ACCEPTED: Final = 4096
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_EXPOSITIONS: Final = ("text/plain", "application/openmetrics-text")


class ServedModel(msgspec.Struct, frozen=True):
    """The model that is served."""

    name: str
    version: str
    sha256: str
    """SHA-256 of the model file's bytes."""


class HealthReport(msgspec.Struct, frozen=True):
    """The answer to `GET /health`; fields that do not apply to the state are absent."""

    status: str
    """`ok`, or the state: starting, draining, failed, or stalled while no worker can answer."""
    uptime_seconds: float
    reason: str | UnsetType = UNSET
    """Why the service is not ready."""
    model: ServedModel | UnsetType = UNSET
    metrics: dict[str, Measured] | UnsetType = UNSET
    """Metrics on the split `measured_on`."""
    lineage: Lineage | UnsetType = UNSET
    deployment: str | UnsetType = UNSET
    """Digest of the deployed image."""
    measured_on: str | UnsetType = UNSET
    """`test` for a released model, else `validation`."""


class LivenessReport(msgspec.Struct, frozen=True):
    """The answer to `GET /health/live`."""

    status: str
    """`alive` or `stuck`."""
    reason: str | UnsetType = UNSET


@get(
    ["/health", "/health/ready"],
    operation_id=lambda _handler, _method, path: "getReadiness" if "ready" in path else "getHealth",
    response_description="The service is ready.",
    responses={
        503: ResponseSpec(
            HealthReport, generate_examples=False, description="The service is not ready, and why."
        )
    },
)
async def health(request: ServiceRequest) -> Response[HealthReport]:
    """200 when the service accepts requests; otherwise 503 with its state and the reason."""
    service = request.service
    state, uptime_seconds = service.lifecycle.state, round(service.uptime_seconds, 3)
    deployment = service.settings.deployment or UNSET
    stalled = service.engine.stalled_seconds()
    if state is State.READY and not stalled:
        artifact = service.models.handler.artifact
        card = artifact.card
        model = ServedModel(card.name, card.version, artifact.sha256)
        report = HealthReport(
            "ok", uptime_seconds, UNSET, model, card.metrics, card.lineage, deployment, card.measured_on
        )
    else:
        name = "stalled" if stalled else str(state)
        reason = (
            f"no worker has been able to answer for {stalled:.1f} s" if stalled else service.lifecycle.reason
        )
        report = HealthReport(name, uptime_seconds, reason, deployment=deployment)
    status = 200 if state is State.READY and not stalled else 503
    return Response(report, status_code=status, headers={"Cache-Control": "no-store"})


@get(
    "/health/live",
    operation_id="getLiveness",
    response_description="The process is alive.",
    responses={
        503: ResponseSpec(LivenessReport, generate_examples=False, description="The workers are stuck.")
    },
)
async def live(request: ServiceRequest) -> Response[LivenessReport]:
    """200 while the process works; 503 when its workers are stuck and it should be restarted."""
    service = request.service
    stalled = service.engine.stalled_seconds()
    if stalled > service.settings.stuck_seconds:
        reason = f"no worker has been able to answer for {stalled:.0f} s"
        return Response(LivenessReport("stuck", reason), status_code=503)
    return Response(LivenessReport("alive"))


@dataclass
class ExpositionOperation(Operation):
    """The OpenAPI description of the text formats of `GET /metrics`; Litestar derives the JSON."""

    def __post_init__(self) -> None:
        """Put the two formats first: a client that names none gets text."""
        text = {kind: OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING)) for kind in _EXPOSITIONS}
        response = self.responses["200"]  # type: ignore[index]
        response.content = {**text, **response.content}  # type: ignore[union-attr,dict-item]


@get(
    "/metrics",
    operation_id="getMetrics",
    security=KEY,
    response_description="Prometheus text, OpenMetrics or a summary.",
    guards=[require_key],
    operation_class=ExpositionOperation,
    responses=problems.documented((401,)),
)
async def metrics(request: ServiceRequest) -> Response[MetricsSummary]:
    """Prometheus text, OpenMetrics or a JSON summary, by the Accept header."""
    accept = request.headers.get("accept", "")
    if _quality(accept, "application/json") > max(_quality(accept, kind) for kind in _EXPOSITIONS):
        return Response(request.service.metrics.summary())
    encode, content_type = choose_encoder(accept)
    text: Any = encode(request.service.metrics.registry)
    return Response(text, headers={"Content-Type": content_type})


def _quality(accept: str, kind: str) -> float:
    """How much an Accept header wants a media type, 0 to 1: by its most specific range (RFC 9110, 12.5.1)."""
    best = (-1, 0.0)
    for entry in accept[:_MOST_ACCEPTED].split(","):
        wanted, *parameters = (part.strip().lower() for part in entry.split(";"))
        if wanted not in (kind, kind.split("/", maxsplit=1)[0] + "/*", "*/*"):
            continue
        text = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        quality = float(text) if _QUALITY.fullmatch(text) else 0.0
        best = max(best, (2 - wanted.count("*"), quality))
    return best[1]


@get(
    "/drift",
    operation_id="getDrift",
    security=KEY,
    response_description="The window and the reference.",
    guards=[require_key],
    responses=problems.documented((401,)),
)
async def drift(request: ServiceRequest) -> DriftReport:
    """The latest photos alongside the reference, per bin, and the distance between the two."""
    return request.service.drift.report()


@get(
    "/drift/window",
    operation_id="getDriftWindow",
    security=KEY,
    response_description="The values.",
    guards=[require_key],
    responses=problems.documented((401,)),
)
async def drift_window(request: ServiceRequest) -> WindowReport:
    """What the latest photos measure, one by one: a new reference can be made of it. No photo is in it."""
    return request.service.drift.window_report()
