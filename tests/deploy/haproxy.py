"""A stand-in for haproxy, as far as deploy/host uses it: the admin socket and the public address."""

from __future__ import annotations

import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from host.books import PORTS
from tests.deploy.stand_ins import Answer, Engine, served, serving


class Haproxy:
    """Implements a few commands of the admin socket, and the public address."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._map = engine, folder / "active.map"
        self.active = "blue"
        self.states = {(backend, slot): "ready" for backend in PORTS for slot in PORTS}
        self.weights = dict.fromkeys(PORTS, 100)
        """Of the servers in the backend canary."""
        self._turn = 0
        self.open_requests = {slot: [0] for slot in PORTS}
        """What `show stat` counts, one number per call; the last one repeats."""
        self.blind = False
        """Its health checks see no server."""
        self.deaf = False
        """It accepts the switch but keeps sending the traffic to the old slot."""

    def answer(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Answer as the container of the active slot, or as that of the other one if it is down."""
        first = self.active
        if first == "canary":  # in turn, by the weights
            self._turn = (self._turn + 37) % 100
            first = "blue" if self._turn < self.weights["blue"] else "green"
        for slot in sorted(PORTS, key=lambda slot: slot != first):
            container = self._engine.listening(PORTS[slot])
            if container and self.states[first, slot] == "ready":
                return container.answer(path, body, headers)
        return 503, "no server is available"

    def command(self, line: str) -> str:  # noqa: PLR0911 (one per command)
        """Run a command of the runtime API; the texts are those of HAProxy 2.6."""
        match line.split():
            case ["get", "map", path, "active"] if path == str(self._map):
                found = "type=str, case=sensitive, found=yes, idx=tree"
                return f'{found}, key="active", value="{self.active}", type="str"'
            case ["set", "map", path, "active", slot] if path == str(self._map):
                self.active = self.active if self.deaf else slot
                return ""
            case ["get" | "set", "map", *_]:
                return "Unknown map identifier. Please use #<id> or <file>."
            case ["set", "server", where, "weight", weight]:
                self.weights[where.removeprefix("canary/")] = int(weight)
                return ""
            case ["set", "server", where, "state", state]:
                backend, slot = where.split("/")
                if (backend, slot) not in self.states:
                    return "No such server."
                self.states[backend, slot] = state
                return ""
            case ["show", "stat"]:
                return self._statistics()
        return "Unknown command, but maybe one of the following ones is a better match:"

    def _statistics(self) -> str:
        lines = ["# pxname,svname,qcur,qmax,scur,smax,status,weight", "public,FRONTEND,,,7,9,OPEN,"]
        for backend, slot in self.states:
            up = self._engine.listening(PORTS[slot]) and not self.blind
            status = "MAINT" if self.states[backend, slot] == "maint" else "UP" if up else "DOWN"
            counts = self.open_requests[slot]
            count = (counts.pop(0) if len(counts) > 1 else counts[0]) if backend == slot else 0
            lines.append(f"{backend},{slot},0,0,{count},9,{status},1")
        for slot in PORTS:
            followed = next(line.split(",")[6] for line in lines if line.startswith(f"{slot},{slot},"))
            lines.append(f"canary,{slot},0,0,0,9,{followed} (via {slot}/{slot}),1")
        return "\n".join(lines) + "\n"

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on the socket and the public address; yield the address."""
        haproxy = self

        class Admin(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(haproxy.command(self.rfile.readline().decode().strip()).encode() + b"\n\n")

        path = self._map.with_name("haproxy.sock")
        admin = socketserver.ThreadingUnixStreamServer(str(path), Admin)
        with served(admin), serving(0, self.answer) as port:
            yield f"http://127.0.0.1:{port}"
        path.unlink()
