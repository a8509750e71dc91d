"""Save, load and fuse the TorchScript network of an artefact. No other module of serving does."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from common import files
from serving.contract import artifact
from serving.contract.artifact import Artifact, ProbeImage
from serving.contract.card import Card

_FUSING = threading.Lock()
# oneDNN would keep each compiled graph for another one like it: 4 MB a reload that no unload returns.
os.environ.setdefault("DNNL_GRAPH_COMPILED_PARTITION_CACHE_CAPACITY", "0")


def one_thread() -> None:
    """Run this thread's tensor operations on one core: one photo per core is faster than all on one."""
    torch.set_num_threads(1)


def save(path: Path, model: torch.jit.ScriptModule, card: Card, probe: list[ProbeImage]) -> None:
    """Write the artefact atomically."""
    extra = {artifact.CARD: msgspec.json.encode(card), artifact.PROBE: msgspec.json.encode(probe)}
    with files.atomic_file(path) as partial, deprecation_silenced():
        torch.jit.save(model, str(partial), _extra_files=extra)


def load(path: Path) -> tuple[torch.jit.ScriptModule, Artifact]:
    """The network of the artefact at `path`, and everything else in the file.

    Raises:
        ArtifactError: the file is not a TorchScript archive, or as for `artifact.read`.
    """
    data = artifact.read_bytes(path)
    loaded = artifact.parse(path, data)
    try:
        with deprecation_silenced():
            _quantise_once()
            model: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(data), map_location="cpu"
            )
    except Exception as error:  # torch raises RuntimeError, ValueError and others on bad archives
        raise artifact.not_whole(path, len(data)) from error
    return model.eval(), loaded


def _quantise_once() -> None:
    """Let torch warn here, where it can be silenced, that it will drop quantised tensors in a later release.

    It warns once in a process: else from C++ within `torch.jit.load`, past Python, on standard error.
    """
    torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)


@contextmanager
def fusing(module: torch.jit.ScriptModule) -> Iterator[torch.jit.ScriptModule]:
    """Freeze the graph and let oneDNN fuse it: on AVX2, a photo then takes a quarter of the eager time.

    The caller warms the network inside the block. oneDNN's switch is global to the process and read at the
    first calls of a graph, so one model at a time is in such a block, and the switch is set back at its end.
    An int8 network already has fused operators, and oneDNN's fusion fails on them.
    """
    kept = [artifact.OBSERVE] if hasattr(module, artifact.OBSERVE) else []
    with _FUSING:
        with deprecation_silenced():
            frozen: torch.jit.ScriptModule = torch.jit.freeze(module, preserved_attrs=kept)
        before = torch.jit.onednn_fusion_enabled()  # type: ignore[no-untyped-call]
        torch.jit.enable_onednn_fusion("quantized::" not in str(frozen.inlined_graph))
        try:
            yield frozen
        finally:
            torch.jit.enable_onednn_fusion(before)


class deprecation_silenced(warnings.catch_warnings):  # noqa: N801 (a context manager)
    """TorchScript is deprecated since torch 2.9; silence the warning where it arises and nowhere else."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated")
        warnings.filterwarnings("ignore", message=r".*torch\.quantize_per_tensor.*deprecated")
