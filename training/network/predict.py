"""Run a network over many photos, on all cores or on an accelerator.

Used for the frozen features of the first phase and for the predictions on validation. On cores the network
is traced, frozen and fused as in serving, and each core takes one photo at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from common.cores import map_on_cores, pool_of_cores
from common.errors import PipelineError
from common.progress import progress
from serving.runtime.torchscript import deprecation_silenced, fusing, one_thread
from training.network.build import Classifier
from training.photos.decoded import Photos

_UNTIL_COMPILED: Final = 3  # calls: torch profiles the first, compiles at the second
_ON_DEVICE: Final = 256  # photos at a time


def trace(
    function: Callable[[torch.Tensor], torch.Tensor] | torch.nn.Module, size: int
) -> torch.jit.ScriptModule:
    """Trace on `u8[1,3,S,S]`; the batch axis stays free."""
    return _trace(function, torch.zeros((1, 3, size, size), dtype=torch.uint8))


def _trace(
    function: Callable[[torch.Tensor], torch.Tensor] | torch.nn.Module, example: torch.Tensor
) -> torch.jit.ScriptModule:
    with deprecation_silenced(), torch.no_grad():
        warnings.filterwarnings("ignore", category=TracerWarning)
        traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            function, example
        )
    return traced


def check(network: Classifier, size: int, others: Iterable[int]) -> None:
    """Try the network before hours are spent on it: on photos of `size` compiled, as it is served.

    Raises:
        PipelineError: it does not take a size, or torch cannot export it.
    """
    training = network.training
    network.eval()
    for side in sorted({size, *others}):
        images = torch.zeros((2, 3, side, side), dtype=torch.uint8)
        try:
            with torch.inference_mode():
                network(images)
            if side == size:
                with fusing(trace(network, side)) as frozen, torch.inference_mode():
                    for _ in range(_UNTIL_COMPILED):
                        frozen(images[:1])
        except Exception as error:  # timm asserts, torch raises RuntimeError
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise PipelineError(
                f"{network.design.architecture} does not take photos of {side}x{side} pixels: {cause}\n"
                "Set model.input_size, finetune.input_sizes and export.read_size to sizes that it takes; "
                "most vision transformers take one alone, as in --finetune.input_sizes '[224, 224, 224]'."
            ) from error
    try:
        images = torch.zeros((2, 3, size, size), dtype=torch.uint8)
        torch.export.export(network, (images,), dynamic_shapes={"images": {0: torch.export.Dim("N")}})
    except Exception as error:  # of many kinds, where the code depends on the data
        cause = str(error).strip().splitlines()[0]
        raise PipelineError(
            f"torch cannot export {network.design.architecture}: {cause}\nChoose another model.backbone."
        ) from error
    network.train(training)


def device_for(accelerator: str) -> torch.device:
    """Where Lightning would train with this value of `trainer.accelerator`."""
    if accelerator == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device("cuda" if accelerator == "gpu" else accelerator)


def predict_all(
    module: torch.nn.Module,
    images: Photos,
    *,
    title: str | None = None,
    chosen: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> npt.NDArray[np.float32]:
    """`f32[N,D]`: the module's output for each photo, in order.

    Args:
        module: `u8[N,3,S,S]` to `f32[N,D]`.
        images: `u8[N,3,S,S]`, as `training.photos.decoded` keeps them.
        title: Title of the progress bar; without one there is no bar.
        chosen: Which of the photos; None for all.
        device: Where to compute; by default where the module's weights are.
    """
    indices = range(len(images)) if chosen is None else chosen
    training, home = module.training, next(module.parameters()).device
    device = device or home
    module.eval().to(device)
    try:
        if device.type == "cpu":
            return _on_cores(module, images, indices, title).numpy()
        return _on_device(module, images, indices, device, title).numpy()
    finally:
        module.to(home).train(training)


def _on_cores(
    module: torch.nn.Module, images: Photos, indices: Sequence[int], title: str | None
) -> torch.Tensor:
    with fusing(_trace(module, torch.tensor(images[indices[0]])[None])) as frozen:

        def compute(index: int) -> torch.Tensor:
            with torch.inference_mode():
                row: torch.Tensor = frozen(torch.tensor(images[index])[None])  # [1,D]; compiled once
            return row

        return torch.cat(map_on_cores(compute, indices, title, initializer=one_thread))


def _on_device(
    module: torch.nn.Module, images: Photos, indices: Sequence[int], device: torch.device, title: str | None
) -> torch.Tensor:
    rows = []
    with (
        torch.inference_mode(),
        pool_of_cores() as pool,
        progress(title, len(indices), "photos", disable=title is None) as bar,
    ):
        for start in range(0, len(indices), _ON_DEVICE):
            batch = np.stack(list(pool.map(images.__getitem__, indices[start : start + _ON_DEVICE])))
            rows.append(module(torch.from_numpy(batch).to(device)).float())
            bar.update(len(batch))
    return torch.cat(rows).cpu()
