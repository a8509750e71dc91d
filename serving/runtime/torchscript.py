"""Save, load and fuse the TorchScript network of an artefact. No other module of serving imports torch."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from common import files
from serving.contract import artifact
from serving.contract.artifact import Artifact, ProbeImage
from serving.contract.card import Card
from serving.runtime.network import Floats, Pixels

_FUSING = threading.Lock()
# oneDNN would keep each compiled graph for another one like it: 4 MB a reload that no unload returns.
os.environ.setdefault("DNNL_GRAPH_COMPILED_PARTITION_CACHE_CAPACITY", "0")


class TorchScriptNetwork:
    """A TorchScript network, fused; see `serving.runtime.network.Network`."""

    def __init__(self, model: torch.jit.ScriptModule, side: int, device: str, sizes: Sequence[int]) -> None:
        """Fuse the network and warm it: two calls compile the graph for a shape, the third is fast.

        It is compiled for one thread per pass, and remains so: oneDNN keeps the number of threads of the
        compiling thread, whatever the calling thread has.

        Args:
            model: Loaded.
            side: S of the input.
            device: `cpu`, `cuda` or `cuda:N`.
            sizes: Numbers of photos in one pass.
        """
        self._device = torch.device(device)
        self._unfused = model.to(self._device)
        with fusing(self._unfused) as self._fused:
            for count in sizes:
                for _ in range(3):
                    self.run(np.zeros((count, 3, side, side), np.uint8))

    def run(self, images: Pixels) -> tuple[Floats, Floats | None]:
        """`u8[N,3,S,S]` to probabilities `f32[N,K]` and, if the artefact has them, distances `f32[N]`."""
        with torch.inference_mode(), _on_one_core():
            pixels = self._on_device(images)
            if not hasattr(self._fused, artifact.OBSERVE):
                return self._fused(pixels).cpu().numpy(), None
            probabilities, distances = self._fused.observe(pixels)
            return probabilities.cpu().numpy(), distances.cpu().numpy()

    def explain(self, images: Pixels) -> Floats | None:
        """`u8[N,3,S,S]` to activation maps `f32[N,K,h,w]`, by the unfused network, which is slower."""
        if not hasattr(self._unfused, artifact.EXPLAIN):
            return None
        with torch.inference_mode(), _on_one_core():
            maps: Floats = self._unfused.explain(self._on_device(images)).cpu().numpy()
        return maps

    def describe(self) -> str:
        """The runtime, its version and the device."""
        return f"torchscript {torch.__version__}, {self._device}"

    def _on_device(self, images: Pixels) -> torch.Tensor:
        return torch.from_numpy(images).to(self._device)


def one_thread() -> None:
    """Run this thread's tensor operations on one core: one photo per core is faster than all on one."""
    torch.set_num_threads(1)


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Run this thread's tensor operations on one core, inside the block."""
    threads = torch.get_num_threads()
    one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def save(path: Path, model: torch.jit.ScriptModule, card: Card, probe: list[ProbeImage]) -> None:
    """Write the artefact atomically."""
    with files.atomic_file(path) as partial, deprecation_silenced():
        torch.jit.save(model, str(partial), _extra_files=artifact.members(card, probe))


def save_as(to: Path, path: Path, data: bytes, card: Card, probe: list[ProbeImage]) -> None:
    """Write the network of the artefact `data`, read from `path`, with another card and probe."""
    save(to, _load(path, data), card, probe)


def load(path: Path) -> tuple[torch.jit.ScriptModule, Artifact]:
    """The network of the artefact at `path`, neither fused nor warm, and everything else in the file.

    Raises:
        ArtifactError: the file is not a TorchScript archive, or as for `artifact.read`.
    """
    data = artifact.read_bytes(path)
    return _load(path, data), artifact.parse(path, data)


def open_network(path: Path, data: bytes, side: int, device: str, sizes: Sequence[int]) -> TorchScriptNetwork:
    """The network of the artefact `data`, read from `path`, fused and warm.

    Raises:
        ArtifactError: the file is not a TorchScript archive.
    """
    return TorchScriptNetwork(_load(path, data), side, device, sizes)


def has_gpu() -> bool:
    """Whether torch has a GPU."""
    return torch.cuda.is_available()


def _load(path: Path, data: bytes) -> torch.jit.ScriptModule:
    try:
        with deprecation_silenced():
            model: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(data), map_location="cpu"
            )
    except Exception as error:  # torch raises RuntimeError, ValueError and others on bad archives
        raise artifact.not_whole(path, len(data)) from error
    return model.eval()


@contextmanager
def fusing(module: torch.jit.ScriptModule) -> Iterator[torch.jit.ScriptModule]:
    """Freeze the graph and let oneDNN fuse it: on AVX2, a photo then takes a quarter of the eager time.

    The caller warms the network inside the block. oneDNN's switch is global to the process and read at the
    first calls of a graph, so one model at a time is in such a block, and the switch is set back at its end.
    """
    kept = [artifact.OBSERVE] if hasattr(module, artifact.OBSERVE) else []
    with _FUSING:
        with deprecation_silenced():
            frozen: torch.jit.ScriptModule = torch.jit.freeze(module, preserved_attrs=kept)
        before = torch.jit.onednn_fusion_enabled()  # type: ignore[no-untyped-call]
        torch.jit.enable_onednn_fusion(True)
        try:
            yield frozen
        finally:
            torch.jit.enable_onednn_fusion(before)


class deprecation_silenced(warnings.catch_warnings):  # noqa: N801 (a context manager)
    """TorchScript is deprecated since torch 2.9; silence the warning where it arises and nowhere else."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated")
