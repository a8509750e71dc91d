"""The compared services, ours and the peers, each in its own environment and process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import torch

from common.errors import UserError
from serving.runtime import torchscript

REQUIREMENTS: Final = Path(__file__).parent.parent / "requirements"
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
    packages: tuple[str, ...] | None = None
    """What it needs of its environment; None for everything."""
    same_network: bool = True
    """It must answer as our handler does."""


@dataclass(slots=True)
class Running:
    """A running service."""

    url: str
    seconds_to_ready: float
    """From the start of the process to its first successful response."""
    process: psutil.Process

    def check_labels(self, labels: Mapping[Path, int]) -> None:
        """Check what it recognises.

        Args:
            labels: The index of the most probable label, by photo.

        Raises:
            ServiceError: it answers another label.
        """
        for photo, label in labels.items():
            probabilities = [*_post(self.url, photo.read_bytes()).json()["probabilities"].values()]
            if probabilities.index(max(probabilities)) != label:
                raise ServiceError(f"It answers {probabilities} for {photo.name}: another label than ours.")

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


def locked(name: str) -> tuple[str, ...]:
    """Names of the packages in a lock file of `requirements`."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return tuple(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))


def ours() -> Spec:
    """The service of this repository, as `make serve` runs it."""
    packages = (*locked("serve"), "torch")
    return Spec("ours", "this service", Path(sys.executable), ("-m", "serving"), packages=packages)


OTHERS: Final = {"onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8"}
"""What runs the same network otherwise, by the suffix of the service's and its limit's names."""


def other_files(model: Path) -> dict[str, Path]:
    """The same network in the formats of `OTHERS`, where they lie next to the artefact."""
    files = {"onnx": model.with_suffix(".onnx"), "int8": model.with_name(f"{model.stem}-int8.onnx")}
    return {kind: path for kind, path in files.items() if path.exists()}


def ours_with(kind: str, model: Path) -> Spec:
    """The same service with one of `OTHERS`."""
    title = f"this service, {OTHERS[kind]}"
    return replace(ours(), name=f"ours_{kind}", title=title, model=model, packages=locked("serve-onnx"))


def null() -> Spec:
    """The server that computes nothing."""
    arguments = ("-m", "bench.null_server")
    return Spec(
        "null", "reads the body, computes nothing", Path(sys.executable), arguments,
        packages=(), same_network=False,
    )  # fmt: skip


def uncomputed() -> Spec:
    """The service of this repository without decoding and network: what an event loop can hand out."""
    return replace(
        ours(),
        name="uncomputed",
        title="this service, answering from memory",
        arguments=("-m", "bench.uncomputed"),
    )


def contents(spec: Spec) -> dict[str, Any]:
    """`versions` of the relevant packages and `megabytes` of all, see `bench.installed`."""
    asked = {"only": spec.packages, "left_out": locked("torch-cuda")}
    command = [str(spec.python), "-m", "bench.installed", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
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
        return _post(url, photo).is_success
    except httpx.TransportError:
        return False


def _post(url: str, photo: bytes) -> httpx.Response:
    return httpx.post(url, files={"file": ("photo.jpg", photo, "image/jpeg")}, timeout=60)
