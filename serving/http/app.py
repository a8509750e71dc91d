"""The HTTP application: `create_app` assembles the routes and takes every dependency as an argument."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Response
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Server
from litestar.static_files import create_static_files_router
from prometheus_client import CollectorRegistry

from serving.http import answers, openapi, pages, static
from serving.http.explain import explain
from serving.http.feedback import feedback
from serving.http.gate import Gate
from serving.http.inference import routes as inference
from serving.http.minutes import minutes
from serving.http.operations import drift, drift_window, health, live, metrics
from serving.http.predict import OUTCOMES, predict
from serving.http.request import ServiceRequest, handling
from serving.http.review import routes as review
from serving.observation import Observer
from serving.service import Service
from serving.settings import Settings
from serving.telemetry import lag

if TYPE_CHECKING:
    from serving.telemetry.otlp import Tracing


def create_app(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_failure: Callable[[], None] = lambda: None,
    observers: Sequence[Observer] = (),
    tracing: Tracing | None = None,
) -> Litestar:
    """Build the service.

    Args:
        settings: Where the model is, and the limits of a request.
        registry: Where the metrics are registered; a new one by default.
        clock: Monotonic seconds.
        on_failure: Called when the model cannot be loaded or verified.
        observers: Receive each computed photo, after the service's own observers.
        tracing: Makes a span of each request; None traces nothing.
    """
    service = Service(settings, registry or CollectorRegistry(), clock, on_failure, observers, tracing)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.start())
        watching = [
            asyncio.create_task(each) for each in (lag.watch(service.metrics), service.minutes.watch())
        ]
        try:
            yield
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            await service.stop()
            for task in watching:
                task.cancel()

    folders = {"/web": static.WEB, "/web/swagger": static.swagger_files()}
    app = Litestar(
        route_handlers=[
            *(predict, explain, feedback, inference.router),
            *(drift, drift_window, health, live, metrics, minutes),
            *(review.page, review.next_photo, review.photo, review.give, review.undo),
            *(review.progress, review.export, review.forget),
            *(pages.index, pages.index_answer, pages.model, pages.status, pages.problem),
            *(
                create_static_files_router(
                    path=path,
                    directories=[folder],
                    include_in_schema=False,
                    file_system=static.Files(),
                )
                for path, folder in folders.items()
                if folder
            ),
        ],
        request_class=ServiceRequest,
        request_max_body_size=None,  # `ServiceRequest.body` enforces the setting, whatever the headers say
        lifespan=[lifespan],
        exception_handlers=handling(Exception, _answer_error),
        openapi_config=OpenAPIConfig(
            title="Image classifier",
            version="1",
            servers=[Server(url="..")],  # as seen from the description itself, also below a path
            path="/schema",
            components=openapi.COMPONENTS,
            render_plugins=[JsonRenderPlugin(), static.Viewer()],
        ),
        logging_config=None,
    )
    openapi.complete(app.openapi_schema)
    app.state.service = service
    routes = answers.routes_of(app)
    service.metrics.expect(OUTCOMES, routes)
    app.asgi_handler = Gate(app.asgi_handler, service, (path for path, _ in routes))
    if tracing:
        from serving.http.traces import Traced

        app.asgi_handler = Traced(app.asgi_handler, tracing.tracer, clock, (path for path, _ in routes))
    return app


def _answer_error(request: ServiceRequest, error: Exception) -> Response[Any]:
    """Answer what no route handled, an unknown address too, in the form of the protocol it belongs to."""
    is_inference = f"{request.scope['path']}/".startswith(f"{inference.PREFIX}/")
    if is_inference:
        return inference.answer_error(request, error)
    return answers.answer_error(request, error)
