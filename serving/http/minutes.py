"""`GET /status/minutes`: what the page `/status` draws."""

from __future__ import annotations

from litestar import Response, get

from serving.http import problems
from serving.http.authorisation import require_key
from serving.http.openapi import KEY
from serving.http.request import ServiceRequest
from serving.telemetry.minutes import MinutesReport


@get(
    "/status/minutes",
    operation_id="getMinutes",
    security=KEY,
    response_description="The latest minutes.",
    guards=[require_key],
    responses=problems.documented((401,)),
)
async def minutes(request: ServiceRequest) -> Response[MinutesReport]:
    """The latest quarter of an hour in periods of 15 seconds: requests, latency, answers and drift."""
    report = request.service.minutes.report()
    return Response(report, headers={"Cache-Control": "no-store"})
