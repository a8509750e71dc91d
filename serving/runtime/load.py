"""Which runtime an artefact needs: TorchScript or ONNX Runtime, by the file's first bytes.

A process imports only the runtime of its model, so that one with an ONNX model never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from serving.contract import artifact
from serving.contract.artifact import Artifact, ProbeImage
from serving.contract.card import Card
from serving.contract.errors import ArtifactError
from serving.runtime.network import Network


def load(path: Path, device: str = "cpu", sizes: Sequence[int] = (1,)) -> tuple[Network, Artifact]:
    """Load the artefact at `path` into the runtime that it is for, and warm it.

    Args:
        path: The model file.
        device: `cpu`, `cuda` or `cuda:N`.
        sizes: Numbers of photos in one pass, each of which is warmed.

    Raises:
        ArtifactError: the file is missing or damaged, or its runtime does not have the device.
    """
    data = artifact.read_bytes(path)
    loaded = artifact.parse(path, data)
    network: Network = _runtime(data).open_network(path, data, loaded.card.input_size, device, sizes)
    return network, loaded


def choose_device(wanted: str, path: Path) -> str:
    """The device's name: `auto` is a GPU if the runtime of the artefact at `path` has one, else the CPU."""
    if wanted != "auto":
        return wanted
    try:
        with path.open("rb") as file:
            return "cuda" if _runtime(file.read(16)).has_gpu() else "cpu"
    except (OSError, ArtifactError):
        return "cpu"  # loading reports what is wrong, a damaged file before a missing runtime


def reseal(path: Path, to: Path, card: Card, probe: list[ProbeImage]) -> None:
    """Write the network of the artefact at `path` to `to`, with another card and probe, atomically.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    data = artifact.read_bytes(path)
    artifact.parse(path, data)
    _runtime(data).save_as(to, path, data, card, probe)


def _runtime(start: bytes) -> ModuleType:
    """The module for a file that begins like this.

    Raises:
        ArtifactError: the runtime is not installed.
    """
    try:
        if artifact.is_onnx(start):
            from serving.runtime import onnx

            return onnx
        from serving.runtime import torchscript
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"This model needs the package {error.name}, which is not installed here. An ONNX model needs "
            "requirements/serve-onnx.txt or the image of RUNTIME=onnx, a TorchScript model requirements/"
            "serve.txt or the image of RUNTIME=torch."
        ) from error
    return torchscript
