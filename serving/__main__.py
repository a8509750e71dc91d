"""`python -m serving`: serve the model until SIGTERM or Ctrl-C, then drain and exit 0."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import msgspec
import structlog
import uvicorn
from litestar import Litestar

from serving import settings
from serving.contract.errors import ConfigurationError
from serving.http.app import create_app
from serving.service import Service
from serving.settings import Settings
from serving.telemetry import logs


class Server(uvicorn.Server):
    """uvicorn, but readiness turns to 503 before the listener closes, and a clean end exits 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """First signal: drain, and close after the grace. Second: end at once."""
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True
            return
        asyncio.get_running_loop().call_soon_threadsafe(self._drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and load the model file anew on SIGHUP."""
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        self._reloading = asyncio.ensure_future(self._service.reload())

    def _drain(self) -> None:
        self._service.drain()
        grace = self._service.settings.drain_grace_seconds
        asyncio.get_running_loop().call_later(grace, setattr, self, "should_exit", True)


def main(arguments: list[str]) -> int:
    """Serve; return the exit status: 0 after a clean end, 1 if it could not serve, 2 for bad settings."""
    if arguments:
        print(_help())
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        chosen = settings.from_environment()
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    listener = _listen(chosen)
    if listener is None:
        return 1
    logs.configure(chosen.log_level, chosen.log_format)
    app: Litestar = create_app(chosen, on_failure=lambda: setattr(server, "should_exit", True))
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=chosen.keep_alive_seconds,
        timeout_graceful_shutdown=int(chosen.drain_timeout_seconds) or 1,
    )
    server = Server(config, service)
    host, port = listener.getsockname()[:2]
    structlog.get_logger().info("listening", address=f"http://{host}:{port}")
    server.run(sockets=[listener])
    return 1 if service.lifecycle.failed else 0


def _listen(chosen: settings.Settings) -> socket.socket | None:
    """Bind before anything is loaded; say at once if that cannot be."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((chosen.host, chosen.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            problem = "is in use. Choose another with PORT=…, or stop what listens there"
        else:
            problem = f"cannot be listened on: {error.strerror}. Choose others with HOST=… and PORT=…"
        print(f"error: {chosen.host}:{chosen.port} {problem}.", file=sys.stderr)
        return None
    return listener


def _help() -> str:
    """The settings with their descriptions, taken from their docstrings."""
    text = Path(settings.__file__).read_text(encoding="utf-8")
    usual = {settings.variable(name): value for name, value in msgspec.structs.asdict(Settings()).items()}
    lines = ["usage: python -m serving", "", "Settings, from the environment, and what they are if not set:"]
    for name, meaning in re.findall(r'"""([A-Z_]+): (.+?)"""', text, re.DOTALL):
        lines += [f"  {name}={usual[name]}", f"      {meaning}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
