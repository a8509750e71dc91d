"""An ONNX graph in, its int8 version out: static post-training quantisation by ONNX Runtime, per channel.

Convolutions, their activations and the sums between them are quantised; everything else, the head included,
stays in fp32. The ranges are the minima and maxima over typical photos. Weights take seven bits, -64 to 63,
because a CPU without VNNI adds pairs of products in 16 bits, where 2 * 255 * 127 would saturate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from common.progress import progress
from serving.contract.artifact import IMAGES

_SUMS: Final = ("Conv", "Add")
_ACTIVATIONS: Final = ("Clip", "Relu")


class _Photos(CalibrationDataReader):  # type: ignore[misc]
    """One photo at a time, as onnxruntime asks for them."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self._batches = self._read(images)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next batch of one photo; None after the last."""
        return next(self._batches, None)

    @staticmethod
    def _read(images: npt.NDArray[np.uint8]) -> Iterator[dict[str, npt.NDArray[np.uint8]]]:
        with progress("calibrate int8", len(images), "photos") as bar:
            for image in images:
                yield {IMAGES: np.array(image[None])}
                bar.update()


def quantise(graph: bytes, images: npt.NDArray[np.uint8]) -> bytes:
    """Quantise the convolutions of a graph.

    Args:
        graph: Of `training.export.graph`.
        images: `u8[N,3,S,S]`, typical photos, which set the ranges of the activations.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder, f"{name}.onnx") for name in ("fp32", "prepared", "int8"))
        source.write_bytes(graph)
        quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Photos(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_SUMS, *_ACTIVATIONS],
            nodes_to_exclude=_other_activations(graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return target.read_bytes()


def _other_activations(graph: bytes) -> list[str]:
    """Names of the nodes that limit something else than a sum, such as the length of the features."""
    nodes = onnx.load_model_from_string(graph).graph.node
    maker = {name: node.op_type for node in nodes for name in node.output}
    return [
        node.name for node in nodes if node.op_type in _ACTIVATIONS and maker.get(node.input[0]) not in _SUMS
    ]
