"""Control of haproxy: its runtime socket, and the map that it reads at start."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from host.books import PORTS, write_whole
from host.checks import wait_for
from host.errors import DeployError, RefusedError

_SHARED = "canary"
"""The backend that divides the traffic by the servers' weights."""


class Proxy:
    """Directs traffic by haproxy's runtime socket, and by the map that it reads at start."""

    def __init__(self, folder: Path, url: str, restart_seconds: float = 3) -> None:
        """Store where haproxy listens, and how long a supervisor may take to start it again."""
        self._restart_seconds = restart_seconds
        self._socket, self._map, self.url = folder / "haproxy.sock", folder / "active.map", url.rstrip("/")

    def ask(self, command: str) -> str:
        """Send a command of the runtime API; return the answer.

        Raises:
            RefusedError: haproxy does not answer, or rejects the command.
        """
        answer = ""

        def answered() -> bool:
            nonlocal answer
            with socket.socket(socket.AF_UNIX) as channel, contextlib.suppress(OSError):
                channel.settimeout(5)
                channel.connect(str(self._socket))
                channel.sendall(command.encode() + b"\n")
                answer = b"".join(iter(lambda: channel.recv(65536), b"")).decode().strip()
                return True
            return False

        wait_for(
            answered,
            self._restart_seconds,
            f"haproxy does not answer at {self._socket}",
            f"Start it with: STATE={self._socket.parent} PORT=80 haproxy -f proxy/haproxy.cfg",
        )
        if answer.startswith(("Unknown", "No such", "Require", "Missing", "entry not found")):
            raise RefusedError(
                f"haproxy rejected '{command}': {answer} "
                f"Does it run with proxy/haproxy.cfg and STATE={self._socket.parent}?"
            )
        return answer

    def active(self) -> str:
        """Return the slot that has the traffic."""
        return self.ask(f"get map {self._map} active").rsplit('value="', 1)[-1].split('"')[0]

    def close(self, slot: str) -> None:
        """Send no traffic to this slot, not even as a backup."""
        for backend in PORTS:
            self.ask(f"set server {backend}/{slot} state maint")

    def open(self, slot: str) -> None:
        """Allow traffic to the slot; return once haproxy's own health check has passed."""
        for backend in PORTS:
            self.ask(f"set server {backend}/{slot} state ready")
        wait_for(
            lambda: all(row["status"].startswith("UP") for row in self._rows(slot)),
            10,
            f"haproxy's health check does not see the {slot} slot up",
            f"Does proxy/haproxy.cfg name port {PORTS[slot]} for it?",
        )

    def switch(self, slot: str) -> None:
        """Send all new requests to this slot, now and after a restart of haproxy.

        Raises:
            DeployError: haproxy does not answer, or the map cannot be written; the other one is done still.
        """
        try:
            write_whole(self._map, f"active {slot}\n", mode=0o644)
        finally:
            self.ask(f"set map {self._map} active {slot}")

    def share(self, slot: str, percent: int) -> None:
        """Send this share of new requests to the slot, the rest to the other one, until haproxy restarts.

        Raises:
            RefusedError: haproxy does not answer, or rejects a command.
        """
        for name in PORTS:
            self.ask(f"set server {_SHARED}/{name} weight {percent if name == slot else 100 - percent}")
        self.ask(f"set map {self._map} active {_SHARED}")

    def install_certificate(self, text: str) -> None:
        """Replace the certificate, in memory too if haproxy runs with one: no connection is closed.

        Raises:
            DeployError: the file cannot be written, or haproxy rejects the certificate.
        """
        path = self._socket.with_name("tls.pem")
        write_whole(path, text)
        with contextlib.suppress(RefusedError):
            if str(path) in self.ask("show ssl cert"):
                payload = "\n".join(filter(None, text.splitlines()))  # an empty line would end it
                answer = self.ask(f"set ssl cert {path} <<\n{payload}\n")
                answer += self.ask(f"commit ssl cert {path}")
                if "Success" not in answer:
                    raise DeployError(f"haproxy rejected the certificate: {answer}")

    def prepare(self) -> None:
        """Write the map that haproxy needs to start, unless it exists."""
        if not self._map.exists():
            write_whole(self._map, "active blue\n", mode=0o644)

    def open_requests(self, slot: str) -> int:
        """Return how many requests the slot has yet to answer."""
        return sum(int(row["scur"]) for row in self._rows(slot))

    def _rows(self, slot: str = "") -> list[dict[str, str]]:
        header, *lines = self.ask("show stat").lstrip("# ").splitlines()
        rows = [dict(zip(header.split(","), line.split(","), strict=False)) for line in lines if line]
        return [row for row in rows if row["svname"] == slot or not slot]
