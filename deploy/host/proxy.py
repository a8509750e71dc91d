"""haproxy, by its runtime socket and the map that it reads when it starts."""

from __future__ import annotations

import socket
from pathlib import Path

from host.books import write_whole
from host.checks import wait_for
from host.containers import PORTS
from host.errors import RefusedError


class Proxy:
    """haproxy, by its runtime socket and the map that it reads when it starts."""

    def __init__(self, folder: Path, url: str) -> None:
        self._socket, self._map, self.url = folder / "haproxy.sock", folder / "active.map", url.rstrip("/")

    def ask(self, command: str) -> str:
        """One command of the runtime API.

        Raises:
            RefusedError: haproxy is not there, or does not take the command.
        """
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(5)
            try:
                channel.connect(str(self._socket))
                channel.sendall(command.encode() + b"\n")
                answer = b"".join(iter(lambda: channel.recv(65536), b"")).decode().strip()
            except OSError as error:
                raise RefusedError(
                    f"haproxy does not answer at {self._socket} ({error}). Start it: "
                    f"STATE={self._socket.parent} PORT=80 haproxy -f proxy/haproxy.cfg"
                ) from error
        if answer.startswith(("Unknown", "No such", "Require", "Missing", "entry not found")):
            raise RefusedError(f"haproxy refused '{command}': {answer}")
        return answer

    def active(self) -> str:
        """The slot that has the traffic."""
        return self.ask(f"get map {self._map} active").rsplit('value="', 1)[-1].split('"')[0]

    def close(self, slot: str) -> None:
        """No traffic to this slot, not even in need."""
        for backend in PORTS:
            self.ask(f"set server {backend}/{slot} state maint")

    def open(self, slot: str) -> None:
        """Let the slot take traffic, once haproxy's own check has seen it."""
        for backend in PORTS:
            self.ask(f"set server {backend}/{slot} state ready")
        wait_for(
            lambda: all(row["status"].startswith("UP") for row in self._rows(slot)),
            10,
            f"haproxy sees no {slot}",
        )

    def switch(self, slot: str) -> None:
        """Give all new requests to this slot, now and after a restart of haproxy."""
        write_whole(self._map, f"active {slot}\n")
        self.ask(f"set map {self._map} active {slot}")

    def prepare(self) -> None:
        """Write the map that haproxy needs to start."""
        if not self._map.exists():
            write_whole(self._map, "active blue\n")

    def open_requests(self, slot: str) -> int:
        """Requests that the slot has still to answer."""
        return sum(int(row["scur"]) for row in self._rows(slot))

    def _rows(self, slot: str) -> list[dict[str, str]]:
        header, *lines = self.ask("show stat").lstrip("# ").splitlines()
        rows = [dict(zip(header.split(","), line.split(","), strict=False)) for line in lines if line]
        return [row for row in rows if row["svname"] == slot]
