"""Serve the app on a socket until SIGTERM or Ctrl-C: settings in, an exit status out."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from prometheus_client import disable_created_metrics

from serving.http.app import create_app
from serving.service import Service
from serving.settings import Settings
from serving.telemetry import logs


class Server(uvicorn.Server):
    """uvicorn, but readiness turns 503 before the listener closes, and a clean shutdown exits with 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """On the first signal, drain, and close after the grace period; on the second, stop at once."""
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True
            return
        asyncio.get_running_loop().call_soon_threadsafe(self._drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and reload the model file on each SIGHUP."""
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        self._reloading = asyncio.ensure_future(self._service.models.reload())

    def _drain(self) -> None:
        self._service.drain()
        grace = self._service.settings.drain_grace_seconds
        asyncio.get_running_loop().call_later(grace, setattr, self, "should_exit", True)


def serve(settings: Settings) -> int:
    """Serve; return the exit status: 0 after a clean shutdown, 1 if it could not serve."""
    listener = _listen(settings.host, settings.port)
    if listener is None:
        return 1
    log = logs.configure(settings.log_level, settings.log_format)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a fifth of the text, and nothing asks for it
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    service: Service = app.state.service
    log.writer.report_drops(service.metrics.log_lines_dropped.inc)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=int(settings.drain_timeout_seconds) or 1,
    )
    server = Server(config, service)
    host, port = listener.getsockname()[:2]
    structlog.get_logger().info("listening", address=f"http://{host}:{port}")
    try:
        server.run(sockets=[listener])
    finally:
        log.close()
    return 1 if service.lifecycle.failed else 0


def _listen(host: str, port: int) -> socket.socket | None:
    """Bind before anything is loaded; report a failure at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            problem = "is in use. Choose another port with PORT=…, or stop the process that listens there"
        else:
            problem = f"is not available: {error.strerror}. Set HOST and PORT to another address"
        print(f"error: {host}:{port} {problem}.", file=sys.stderr)
        return None
    return listener
