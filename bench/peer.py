"""The peers: what each serves and how, and its environment, which is made here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.services import REQUIREMENTS, ServiceError, Spec

_FOLDER: Final = Path(__file__).parent / "peers"
_SEARCHED: Final = f"{_FOLDER / 'shared'}:{_FOLDER.parent.parent}"
"""Where they find `threads` and, under Granian, this service."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table."""

    title: str
    folder: str
    """Of `bench/peers`: `app.py` and `requirements.in`."""
    kind: str = ""
    """Which artefact it serves: one of `services.OTHERS`, or the one in TorchScript."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its own."""
    same_network: bool = True
    """It must answer as our handler does."""


PEERS: Final = {
    "fastapi_threads": Peer("FastAPI, same artefact, as many threads", "fastapi_threads"),
    "fastapi_full": Peer(
        "the same FastAPI, decoding photos in full", "fastapi_threads", settings={"FULL_DECODE": "1"}
    ),
    "fastapi_onnx": Peer("FastAPI, ONNX Runtime, as many threads", "fastapi_onnx", "onnx"),
    "openvino": Peer("FastAPI, OpenVINO, as many threads", "openvino", "onnx"),
    "granian": Peer("this service under Granian instead of uvicorn", "granian"),
    "litserve": Peer("LitServe, same artefact, two workers", "litserve"),
    "bentoml": Peer("BentoML, same artefact, one worker per core", "bentoml"),
    "fastapi_eager": Peer("FastAPI, eager model in an async route", "fastapi_eager"),
    "keras": Peer("Keras EfficientNetB0 and FastAPI", "keras", same_network=False),
}
LEFT_OUT: Final = {
    "OpenVINO Model Server": "it comes as a container image or an archive, not as a package; the row with "
    "OpenVINO has its runtime",
    "Triton": "it comes as a container image",
}
"""What is not compared, and why."""


def peer(name: str, environments: Path, files: Mapping[str, Path]) -> Spec:
    """A peer, installed into an environment of its own.

    Args:
        name: One of `PEERS`.
        environments: The folder for environments.
        files: The artefacts of `services.other_files`.

    Raises:
        ServiceError: there is no such peer, its artefact is missing, or it cannot be installed.
    """
    if name not in PEERS:
        raise ServiceError(f"{name} is not a peer. Known: {', '.join(PEERS)}.")
    one = PEERS[name]
    if one.kind and one.kind not in files:
        raise ServiceError(
            f"{name} serves an artefact in ONNX, and none lies next to the one in TorchScript."
        )
    python = _environment(one.folder, environments / one.folder)
    return Spec(
        name, one.title, python, (str(_FOLDER / one.folder / "app.py"),), files.get(one.kind),
        {"PYTHONPATH": _SEARCHED, **one.settings}, same_network=one.same_network,
    )  # fmt: skip


def _environment(folder: str, venv: Path) -> Path:
    """Install what the folder lists, once; return the environment's Python."""
    python, stamp = venv / "bin/python", venv / ".installed"
    wanted = _FOLDER / folder / "requirements.in"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    print(f"installing {folder} into {venv}…", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    constraints = REQUIREMENTS / "torch-cuda.txt"
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"{folder} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    stamp.write_text(wanted.read_text())
    return python
