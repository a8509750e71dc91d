"""The released ONNX artefact in, its frozen backbone and its linear head out, as two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from common.errors import PipelineError
from serving.contract import artifact
from serving.contract.artifact import DISTANCE, IMAGES, PROBABILITIES
from training.study.month.head import Head

_TOLERANCE: Final = 1e-3


class Backbone:
    """The network of an ONNX artefact, with the features as one more output. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open the artefact at `path`.

        Raises:
            ArtifactError: it cannot be read.
            PipelineError: its graph does not end in one linear layer, or has no feature distance.
        """
        data = artifact.read_bytes(path)
        loaded = artifact.parse(path, data)
        self.card, self.sha256 = loaded.card, loaded.sha256
        graph, head = _split(path, data)
        self.head = head.divided(self.card.temperature)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._outputs = [self._session.get_outputs()[-1].name, PROBABILITIES, DISTANCE]
        size = self.card.input_size
        features, probabilities, _ = self.run(np.full((3, size, size), 127, np.uint8))
        if not np.allclose(self.head.probabilities(features), probabilities, atol=_TOLERANCE):
            raise _no_head(path)

    def run(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
        """`u8[3,S,S]` to features `f32[D]`, probabilities `f32[K]` and the feature distance."""
        features, probabilities, distance = self._session.run(self._outputs, {IMAGES: pixels[None]})
        return features[0], probabilities[0], float(distance[0])


def _split(path: Path, data: bytes) -> tuple[bytes, Head]:
    """The graph with the input of its last linear layer as its last output, and that layer."""
    model = onnx.load_model_from_string(data)
    stored = {one.name: one for one in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Gemm" and node.input[1] in stored]
    if not layers or DISTANCE not in [output.name for output in model.graph.output]:
        raise _no_head(path)
    features, *layer = layers[-1].input
    model.graph.output.append(onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None))
    weight, bias = (onnx.numpy_helper.to_array(stored[name]) for name in layer)
    return cast("bytes", model.SerializeToString()), Head(weight, bias)


def _no_head(path: Path) -> PipelineError:
    return PipelineError(
        f"{path} has no linear head on features, or no feature distance: no other head can be trained. "
        "Export the model again with this version: make export."
    )
