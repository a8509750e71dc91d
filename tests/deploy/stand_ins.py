"""Stand-ins for engine and clock, as far as deploy/host uses them: a deploy takes milliseconds and no Docker.

A container is a small HTTP server in this process. `make rehearse` tests a real engine.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import socket
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path

Answer = tuple[int, str]
PHOTO_BYTES = 400
LABELS = ("cat", "dog")


def photo(label: str) -> bytes:
    """Return a stand-in for a photo of `label`."""
    return f"{label} ".encode() * (PHOTO_BYTES // (len(label) + 1))


class Clock:
    """A clock that advances only when something sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        """What the rest of the world does during each sleep."""
        self.strftime, self.gmtime = time.strftime, time.gmtime

    def monotonic(self) -> float:
        """Return the seconds slept so far."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Advance the clock and return at once."""
        self.seconds += seconds
        self.meanwhile()


@dataclass
class Image:
    """How the containers of an image behave; healthy by default."""

    name: str
    version: str = "1"
    label: str = "a" * 64
    """The label model.sha256 of the image."""
    model: str = "a" * 64
    """The sha256 of the served model."""
    ready: bool = True
    crashes: bool = False
    """The container exits as soon as it is started."""
    restarts: bool = False
    """The engine restarts it again and again."""
    cannot_start: bool = False
    key: str = ""
    fails_after: float = float("inf")
    """Number of requests to /predict after which each gets 500."""
    dogs_after: float = float("inf")
    """Number of requests to /predict after which each photo is a dog."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """By path: the answer that replaces the correct one."""

    def answer(self, path: str, body: bytes, headers: dict[str, str], deployment: str) -> Answer:
        """Answer as the service does."""
        model = {"name": "tiny", "version": self.version, "sha256": self.model}
        correct = {
            "/health/ready": (200 if self.ready else 503, ""),
            "/health": (200, json.dumps({"status": "ok", "deployment": deployment, "model": model})),
            "/metrics": (200, 'classifier_requests_total{outcome="ok"} 1.0'),
            "/predict": (422, "broken"),
        } | self.answers
        if (
            path in ("/predict", "/metrics")
            and self.key
            and headers.get("Authorization") != f"Bearer {self.key}"
        ):
            return 401, "no key"
        if path == "/predict" and path not in self.answers and len(body) == PHOTO_BYTES:
            return 200, json.dumps({"prediction": body.split()[0].decode()})
        return correct[path]


class _Handler(http.server.BaseHTTPRequestHandler):
    wbufsize = -1  # an answer is sent whole or not at all

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, text = self.server.answer(self.path, body, dict(self.headers))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET  # noqa: N815 (named by http.server)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    """Run a server in its own thread."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(port: int, answer: Callable[[str, bytes, dict[str, str]], Answer]) -> Iterator[int]:
    """Answer HTTP on a port of the loopback interface; yield the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.answer = answer
    with served(server):
        yield server.server_address[1]


_PORTS = itertools.cycle(range(20_000, 30_000))
for _ in range(os.getpid() * 97 % 10_000):  # each test process begins elsewhere
    next(_PORTS)


def free_port() -> int:
    """Return a free port that no outgoing connection will take: they use 32768 and above."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Container:
    """A container; it listens while it runs."""

    def __init__(self, image: Image, port: int, variables: dict[str, str]) -> None:
        self.image, self.port, self.variables = image, port, variables
        self._server = None
        self._counting, self.counted = threading.Lock(), Counter[tuple[str, str]]()
        self.restarts = 0

    @property
    def running(self) -> bool:
        """Report whether it listens."""
        return self._server is not None

    def answer(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Answer a request, whatever address it came to, and count it as the service does."""
        status, text = self.image.answer(path, body, headers, self.variables["DEPLOYMENT"])
        if path == "/metrics" and status == HTTPStatus.OK and path not in self.image.answers:
            return status, self._metrics()
        if path == "/predict":
            with self._counting:
                before = sum(count for (kind, _), count in self.counted.items() if kind == "outcome")
                if before >= self.image.fails_after:
                    status, text = 500, "a fault"
                elif before >= self.image.dogs_after and status == HTTPStatus.OK:
                    text = json.dumps({"prediction": "dog"})
                self.counted["outcome", {200: "ok", 500: "internal"}.get(status, "unsupported-image")] += 1
                if status == HTTPStatus.OK and path not in self.image.answers:
                    self.counted["label", json.loads(text)["prediction"]] += 1
        return status, text

    def _metrics(self) -> str:
        names = {"outcome": "classifier_requests_total", "label": "classifier_predictions_total"}
        with self._counting:
            lines = [f'{names[kind]}{{{kind}="{value}"}} {n}.0' for (kind, value), n in self.counted.items()]
            answered = self.counted["outcome", "ok"]
        lines += [f'classifier_request_duration_seconds_bucket{{le="0.5"}} {answered}.0']
        lines += [f"classifier_request_duration_seconds_count {answered}.0"]
        return "\n".join(
            ["# classifier_requests_total", *lines, "classifier_predictions_uncertain_total 0.0"]
        )

    def start(self) -> None:
        """Start to listen, unless the image crashes."""
        if not self.running and not self.image.crashes:
            self._server = serving(self.port, self.answer)
            self._server.__enter__()

    def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.__exit__(None, None, None)
            self._server = None


class Engine:
    """Implements the engine's command line in place of `subprocess.run`."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.containers: dict[str, Container] = {}
        self.removed: list[str] = []
        """Images that were removed; they can be pulled again."""

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        """Run a command; return its status and output."""
        _, verb, *words = command
        try:
            output = getattr(self, f"_{verb}")(*words)
        except KeyError as error:
            return subprocess.CompletedProcess(command, 1, "", f"Error: No such object: {error.args[0]}")
        except OSError as error:
            return subprocess.CompletedProcess(command, 125, "", f"Error: {error}")
        return subprocess.CompletedProcess(command, 0, output or "", "")

    def _version(self) -> None:
        pass

    def _pull(self, image: str) -> None:
        _ = self.images[image]

    def _run(self, *words: str) -> None:
        name = words[words.index("--name") + 1]
        if name in self.containers:
            raise OSError(f"the name {name} is in use")
        image = self.images[words[-1]]
        port = int(words[words.index("--publish") + 1].split(":")[1])
        lines = [word for option, word in pairwise(words) if option == "--env"]
        for option, word in pairwise(words):
            if option == "--env-file":
                lines += Path(word).read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines)
        container = self.containers[name] = Container(image, port, variables)
        if image.cannot_start:
            raise OSError("no space left on device")
        container.start()

    def _create(self, image: str) -> str:
        self.containers["created"] = Container(self.images[image], 0, {"MODEL": "/app/model"})
        return "created\n"

    def _cp(self, source: str, target: str) -> None:
        container, path = source.split(":")
        Path(target).write_text(f"{path} of {self.containers[container].image.name}")

    def _ps(self, *_: str) -> str:
        return "".join(f"{name}\n" for name in self.containers)

    def _image(self, verb: str, image: str) -> None:
        assert verb == "rm"
        if any(container.image is self.images[image] for container in self.containers.values()):
            raise OSError(f"{image} is in use")
        self.removed.append(image)

    def _start(self, name: str) -> None:
        container = self.containers[name]
        if container.image.cannot_start:
            raise OSError("no space left on device")
        container.start()

    def _stop(self, *words: str) -> None:
        self.containers[words[-1]].stop()

    def _rm(self, *words: str) -> None:
        self.containers.pop(words[-1]).stop()

    def _logs(self, *words: str) -> str:
        return f"{self.containers[words[-1]].image.name} logs its work"

    def _inspect(self, _: str, form: str, name: str) -> str:
        container = self.containers[name]
        if "Env" in form:
            return json.dumps([f"{name}={value}" for name, value in container.variables.items()])
        if "Running" in form:
            return f"{container.running}\n".lower()
        if "RestartCount" in form:
            container.restarts += container.image.restarts
            return f"{container.restarts}\n"
        return f"{container.image.label}\n"

    def listening(self, port: int) -> Container | None:
        """Return the running container behind a port."""
        return next(
            (found for found in self.containers.values() if found.running and found.port == port), None
        )
