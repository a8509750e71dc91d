"""Serve the app on a socket until SIGTERM or Ctrl-C: settings in, an exit status out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Final, cast

import structlog
import uvicorn
from prometheus_client import disable_created_metrics

from serving.http import listener
from serving.http.app import create_app
from serving.http.connections import Connections, Phase, allowed
from serving.http.protocol import Protocol
from serving.runtime import memory
from serving.service import Service
from serving.settings import Settings
from serving.telemetry import logs, tracing

_IDLE_SECONDS: Final = 5.0
"""How long a caller that keeps its connection may pause before its next request, once nobody listens."""
_LAST_SECONDS: Final = 0.5
"""Kept for the exit itself, of the time that a stop may take."""
_ENGINE_SECONDS: Final = 0.5
"""Kept for what the engine still computes, and for the shadow and the feedback store."""
_ACCEPT_SECONDS: Final = 0.2
"""For connections that have begun to connect when the listener takes no more: more than most round trips."""
_POLL_SECONDS: Final = 0.02
_CUT: Final = 1


class Server(uvicorn.Server):
    """uvicorn, but a stop loses nothing that callers have sent, and ends in time."""

    def __init__(
        self, config: uvicorn.Config, service: Service, connections: Connections, log: logs.Log
    ) -> None:
        super().__init__(config)
        self._service, self._open_connections, self._log = service, connections, log
        self._signals = 0
        self._stops_at = float("inf")
        self._terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """On the first signal, drain, and close after the grace period; on the second, end at once."""
        self._signals += 1
        if self._signals > 1:
            structlog.get_logger().warning("stopped at once", reason="a second signal")
            self._log.close(_LAST_SECONDS)
            os._exit(128 + sig)
        asyncio.get_running_loop().call_soon_threadsafe(self._drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and reload the model file on each SIGHUP that does not come from a closing terminal."""
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self._signals:
            return  # a shell and the system each report a closing terminal
        if self._terminal and not _has_terminal():
            structlog.get_logger().info("the terminal was closed")
            self.handle_exit(signal.SIGHUP, None)
        else:
            self._reloading = asyncio.ensure_future(self._service.models.reload())

    def _drain(self) -> None:
        """Begin to stop: from here on, everything shares one deadline."""
        settings = self._service.settings
        self._stops_at = time.monotonic() + settings.drain_timeout_seconds
        self._service.stops_at = self._stops_at - _LAST_SECONDS
        threading.Thread(target=self._end_in_time, name="deadline", daemon=True).start()
        self._service.drain()
        grace = min(settings.drain_grace_seconds, settings.drain_timeout_seconds / 4)
        asyncio.get_running_loop().call_later(grace, setattr, self, "should_exit", True)

    def _end_in_time(self) -> None:
        """End the process at the deadline, whatever still runs: a decoder cannot be interrupted."""
        time.sleep(max(0.0, self._stops_at - _LAST_SECONDS / 2 - time.monotonic()))
        structlog.get_logger().warning("stopped", drained=False, reason="the time for the stop is over")
        self._log.close(_LAST_SECONDS / 2)
        os._exit(_CUT)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, answer what was sent on open connections, then stop the service."""
        if self._service.stops_at == float("inf"):  # it could not start
            self._service.stops_at = time.monotonic() + self._service.settings.drain_timeout_seconds
        for bound in sockets or []:
            listener.take_no_more(bound)
        await asyncio.sleep(_ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        for bound in sockets or []:
            bound.close()
        for connection in self._open_connections:
            connection.shutdown()
        await self._wait_for_connections()
        for connection in self._open_connections:
            connection.end()
        cut = [task for task in self.server_state.tasks if not task.done()]
        if cut:
            structlog.get_logger().warning("requests cut", count=len(cut))
        for task in cut:
            task.cancel()
        await self.lifespan.shutdown()

    async def _wait_for_connections(self) -> None:
        """Until each has been answered or has been idle for a time, or the stop must go on."""
        stops_at = self._service.stops_at - _ENGINE_SECONDS
        idle_until = time.monotonic() + _IDLE_SECONDS
        while time.monotonic() < stops_at:
            phases = {connection.phase for connection in self._open_connections}
            is_idle = not phases & {Phase.ANSWER, Phase.BODY, Phase.HEAD, Phase.UNREAD}
            if not phases or (is_idle and time.monotonic() > idle_until):
                return
            await asyncio.sleep(_POLL_SECONDS)


def serve(settings: Settings) -> int:
    """Serve; return the exit status: 0 after a clean shutdown, 1 if it could not serve."""
    traced = tracing.from_environment()
    bound = listener.listen(settings.host, settings.port)
    if bound is None:
        return 1
    memory.bound()
    log = logs.configure(settings.log_level, settings.log_format)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a fifth of the text, and nothing asks for it
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True), tracing=traced)
    service: Service = app.state.service
    log.writer.report_drops(service.metrics.log_lines_dropped.inc)
    most = allowed(settings.max_connections)
    service.metrics.max_connections.set(most)
    connections = Connections(most, service.metrics)
    service.metrics.open_connections.set_function(lambda: len(connections))
    config = uvicorn.Config(
        app,
        http=cast("Any", functools.partial(Protocol, service=service, connections=connections)),
        ws="none",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        proxy_headers=False,  # nothing here asks who the caller is
        log_config=None,
        log_level="warning",
        timeout_keep_alive=settings.keep_alive_seconds,
    )
    server = Server(config, service, connections, log)
    address = listener.address(bound)
    structlog.get_logger().info("listening", address=address)
    try:
        server.run(sockets=[bound])
    finally:
        listener.remove(bound, address)
        log.close(_LAST_SECONDS)
    return 1 if service.lifecycle.failed else 0


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still there."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False
