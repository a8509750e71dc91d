"""Save and load the ONNX network of an artefact, for ONNX Runtime. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnxruntime

from common import files
from serving.contract import artifact, onnx
from serving.contract.artifact import ACTIVATION, DISTANCE, IMAGES, PROBABILITIES, ProbeImage
from serving.contract.card import Card
from serving.contract.errors import ArtifactError
from serving.runtime.network import Floats, Pixels

_GPU: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_ERRORS: Final = 3  # of onnxruntime's levels of logging


class OnnxNetwork:
    """An ONNX network in a session of ONNX Runtime; see `serving.runtime.network.Network`."""

    def __init__(self, model: bytes, device: str = "cpu") -> None:
        """Open a session: one thread a pass on a CPU.

        Args:
            model: The graph, or the whole artefact.
            device: `cpu`, `cuda` or `cuda:N`.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS
        self._device = device
        self._session = onnxruntime.InferenceSession(model, options, providers=_providers(device))
        names = [output.name for output in self._session.get_outputs()]
        self._answers = [name for name in (PROBABILITIES, DISTANCE) if name in names]
        self._explains = ACTIVATION in names

    def run(self, images: Pixels) -> tuple[Floats, Floats | None]:
        """`u8[N,3,S,S]` to probabilities `f32[N,K]` and distances `f32[N]`."""
        found = self._session.run(self._answers, {IMAGES: images})
        probabilities, distances = [*found, None][:2]
        return cast("Floats", probabilities), cast("Floats | None", distances)

    def explain(self, images: Pixels) -> Floats | None:
        """`u8[N,3,S,S]` to activation maps `f32[N,K,h,w]`."""
        if not self._explains:
            return None
        return cast("Floats", self._session.run([ACTIVATION], {IMAGES: images})[0])

    def describe(self) -> str:
        """The runtime, its version and the device."""
        return f"onnxruntime {onnxruntime.__version__}, {self._device}"


def save(path: Path, graph: bytes, card: Card, probe: list[ProbeImage]) -> None:
    """Write the artefact atomically."""
    with files.atomic_file(path) as partial:
        partial.write_bytes(onnx.join(graph, artifact.members(card, probe)))


def save_as(to: Path, path: Path, data: bytes, card: Card, probe: list[ProbeImage]) -> None:
    """Write the network of the artefact `data`, read from `path`, with another card and probe."""
    del path
    save(to, onnx.split(data)[0], card, probe)


def open_network(path: Path, data: bytes, side: int, device: str, sizes: Sequence[int]) -> OnnxNetwork:
    """The network of the artefact `data`, read from `path`, after a pass of each size.

    Raises:
        ArtifactError: onnxruntime cannot run it, or has no such device.
    """
    if device != "cpu" and not has_gpu():
        raise ArtifactError(
            f"SERVING_DEVICE={device}: the installed onnxruntime has no {_GPU}. Install onnxruntime-gpu "
            "instead of onnxruntime, or set SERVING_DEVICE=cpu."
        )
    try:
        network = OnnxNetwork(data, device)
        for count in sizes:
            network.run(np.zeros((count, 3, side, side), np.uint8))
    except Exception as error:  # onnxruntime has a kind for each status
        raise ArtifactError(
            f"onnxruntime {onnxruntime.__version__} cannot run the model at {path}: {error} Export it again "
            "with this version."
        ) from error
    return network


def has_gpu() -> bool:
    """Whether the installed onnxruntime runs on a GPU."""
    return _GPU in onnxruntime.get_available_providers()


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return [_CPU]
    return [(_GPU, {"device_id": int(device.partition(":")[2] or 0)}), _CPU]
