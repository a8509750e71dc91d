"""The compared services, ours and the peers, each in its own environment and process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx
import psutil
import torch

from common.errors import UserError
from serving.runtime import torchscript

_PEERS: Final = Path(__file__).parent / "peers"
_READY_SECONDS: Final = 180.0
_IDLE_SECONDS: Final = 0.2
_IDLE_SHARE: Final = 0.15  # of a core: some poll while they wait


class ServiceError(UserError):
    """A service could not be installed or did not become ready."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How to run one service."""

    name: str
    title: str
    python: Path
    arguments: tuple[str, ...]
    model: Path | None = None
    """The artefact, if not the one that all serve."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its own."""


@dataclass(slots=True)
class Running:
    """A running service."""

    url: str
    seconds_to_ready: float
    """From the start of the process to its first successful response."""
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU time so far of all its processes."""
        return sum(sum(p.cpu_times()[:2]) for p in self._tree())

    def wait_until_idle(self) -> None:
        """Wait until the backlog of the last load is done, so that the next turn is undisturbed."""
        deadline = time.perf_counter() + _READY_SECONDS
        while time.perf_counter() < deadline:
            before = self.cpu_seconds()
            time.sleep(_IDLE_SECONDS)
            if self.cpu_seconds() - before < _IDLE_SHARE * _IDLE_SECONDS:
                return

    def resident_megabytes(self) -> float:
        """Resident memory of all its processes; shared pages count in each."""
        return sum(p.memory_info().rss for p in self._tree()) / 1e6

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def ours() -> Spec:
    """The service of this repository, as `make serve` runs it."""
    return Spec("ours", "this service", Path(sys.executable), ("-m", "serving"))


OTHERS: Final = {"onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8"}
"""What runs the same network otherwise, by the suffix of the service's and its limit's names."""


def other_files(model: Path) -> dict[str, Path]:
    """The same network in the formats of `OTHERS`, where they lie next to the artefact."""
    files = {"onnx": model.with_suffix(".onnx"), "int8": model.with_name(f"{model.stem}-int8.onnx")}
    return {kind: path for kind, path in files.items() if path.exists()}


def ours_with(kind: str, model: Path) -> Spec:
    """The same service with one of `OTHERS`."""
    return replace(ours(), name=f"ours_{kind}", title=f"this service, {OTHERS[kind]}", model=model)


def null() -> Spec:
    """The server that computes nothing."""
    arguments = ("-m", "bench.null_server")
    return Spec("null", "reads the body, computes nothing", Path(sys.executable), arguments)


PEERS: Final = {
    "fastapi_threads": "FastAPI, same artefact, as many threads",
    "litserve": "LitServe, same artefact, two workers",
    "bentoml": "BentoML, same artefact, one worker per core",
    "fastapi_eager": "FastAPI, eager model in an async route",
    "keras": "Keras EfficientNetB0 and FastAPI",
}


def peer(name: str, environments: Path) -> Spec:
    """A peer, installed into an environment of its own.

    Raises:
        ServiceError: there is no such peer, or it cannot be installed.
    """
    if name not in PEERS:
        raise ServiceError(f"{name} is not a peer. Known: {', '.join(PEERS)}.")
    folder, venv = _PEERS / name, environments / name
    python, stamp = venv / "bin/python", venv / ".installed"
    if not stamp.exists():
        print(f"installing {name} into {venv}…", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        constraints = Path("requirements/torch-cuda.txt").resolve()
        command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints)]
        done = subprocess.run(
            [*command, "-r", str(folder / "requirements.in")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServiceError(f"{name} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        stamp.touch()
    return Spec(name, PEERS[name], python, (str(folder / "app.py"),))


def versions(spec: Spec) -> dict[str, str]:
    """Versions of the relevant packages in the service's environment."""
    names = (
        "torch",
        "litestar",
        "fastapi",
        "uvicorn",
        "litserve",
        "bentoml",
        "keras",
        "tensorflow-cpu",
        "timm",
    )
    code = (
        "import importlib.metadata as m, json, sys\nfound = {}\nfor n in sys.argv[1:]:\n"
        "    try:\n        found[n] = m.version(n)\n    except m.PackageNotFoundError:\n        pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([str(spec.python), "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def write_eager_weights(model: Path, to: Path) -> Path:
    """The artefact's weights under timm's names, for the peer that runs the eager network."""
    state = torchscript.load(model)[0].state_dict()
    names = {"network.backbone.": "", "network.head.": "classifier."}
    weights = {
        new + name.removeprefix(old): tensor
        for old, new in names.items()
        for name, tensor in state.items()
        if name.startswith(old)
    }
    torch.save(weights, to)
    return to


@contextmanager
def running(spec: Spec, model: Path, weights: Path, photo: bytes, log: Path) -> Iterator[Running]:
    """Run a service until the block ends.

    Raises:
        ServiceError: it does not answer a photo in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PORT": str(port), "MODEL": str(spec.model or model), "WEIGHTS": str(weights)}
    environment |= spec.settings
    began = time.perf_counter()
    with log.open("w") as output:
        popen = subprocess.Popen(
            [str(spec.python), *spec.arguments],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/predict"
        while not _answers(url, photo):
            if popen.poll() is not None or time.perf_counter() - began > _READY_SECONDS:
                raise ServiceError(f"{spec.name} does not answer; {log} ends with: {log.read_text()[-800:]}")
            time.sleep(0.02)
        yield Running(url, time.perf_counter() - began, psutil.Process(popen.pid))
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            if _alive(popen):
                os.killpg(popen.pid, how)  # the group that was started here
                try:
                    popen.wait(15)
                except subprocess.TimeoutExpired:
                    continue


def _alive(popen: subprocess.Popen[bytes]) -> bool:
    return popen.poll() is None


def _answers(url: str, photo: bytes) -> bool:
    try:
        return httpx.post(url, files={"file": ("photo.jpg", photo, "image/jpeg")}, timeout=60).is_success
    except httpx.TransportError:
        return False
