"""Two models loaded at once: neither changes how the other is fused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from serving.runtime import torchscript


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """As an artefact holds it."""
    with torchscript.deprecation_silenced():
        return torch.jit.script(module.eval())


def test_a_model_s_fusion_lasts_until_it_is_warm_whatever_is_loaded_alongside():
    """The second waits for the first; then the switch is as it was."""
    plain = scripted(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    seen: list[tuple[int, bool]] = []
    inside = threading.Barrier(2, timeout=0.2)

    def load(number: int) -> None:
        with torchscript.fusing(plain):
            try:
                inside.wait()  # never both at once
            except threading.BrokenBarrierError:
                seen.append((number, torch.jit.onednn_fusion_enabled()))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, (1, 2)))
    assert sorted(seen) == [(1, True), (2, True)]
    assert not torch.jit.onednn_fusion_enabled()
