"""The calibrated network in, the bytes of an equivalent ONNX graph out."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, cast

import numpy as np
import onnx
import torch

from common.errors import PipelineError
from serving.contract.artifact import ACTIVATION, DISTANCE, IMAGES, PROBABILITIES
from serving.runtime.onnx import OnnxNetwork
from training.export.calibrate import CalibratedClassifier
from training.network.maps import feature_maps, pools_its_maps

OPSET: Final = 20
"""ONNX's operator set: the first with all operators of today's backbones; onnxruntime has it since 1.17."""
_TEMPERATURE: Final = "temperature"  # as `CalibratedClassifier` calls it
_TOLERANCE: Final = 1e-4
_NOT_ONE: Final = 2.0
"""Temperature at the export, which leaves out a division by one."""


class _Outputs(torch.nn.Module):
    """All outputs of the artefact in one pass: the feature maps are computed once."""

    def __init__(self, model: CalibratedClassifier, pools: bool) -> None:
        super().__init__()
        self.model, self._pools = model, pools

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`u8[N,3,S,S]` to probabilities, distance and, if the backbone pools its maps, activation."""
        if not self._pools:
            return self.model.observe(images)
        maps = feature_maps(self.model.network, images)
        return (*self.model.judge(maps.mean((2, 3))), self.model.activate(maps))


def make_graph(model: CalibratedClassifier, size: int) -> bytes:
    """The graph with input `u8[N,3,S,S]` and a free batch axis; batch norm is folded into convolutions.

    Raises:
        PipelineError: torch cannot follow the backbone, or a probability differs by more than 1e-4.
    """
    images = torch.zeros((2, 3, size, size), dtype=torch.uint8)  # of 2: torch fixes an axis of length 1
    pools = pools_its_maps(model.network, images)
    names = [PROBABILITIES, DISTANCE, *([ACTIVATION] if pools else [])]
    other = copy.deepcopy(model)
    other.temperature.fill_(_NOT_ONE)
    try:
        program = torch.onnx.export(
            _Outputs(other, pools).eval(),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=names,
            dynamic_shapes={IMAGES: {0: torch.export.Dim("N")}},
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise PipelineError(
            f"torch cannot export {model.network.design.architecture} to ONNX: {error}. Choose another "
            "model.backbone."
        ) from error
    assert program is not None  # noqa: S101 (with dynamo=True it is not)
    exported: bytes = _without_traces(program.model_proto).SerializeToString()
    graph = with_temperature(exported, float(model.temperature))
    _check_equal(model, graph, size)
    return graph


def with_temperature(graph: bytes, temperature: float) -> bytes:
    """The same graph with another temperature."""
    model = onnx.load_model_from_string(graph)
    stored = next(one for one in model.graph.initializer if one.name.endswith(_TEMPERATURE))
    stored.CopyFrom(onnx.numpy_helper.from_array(np.array(temperature, np.float32), stored.name))
    return cast("bytes", model.SerializeToString())


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes of each node and value: its place in the code, with paths."""
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    parts: Iterable[Any] = (graph, *graph.node, *values)
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def _check_equal(model: CalibratedClassifier, graph: bytes, size: int) -> None:
    """Compare the graph with the eager network, on a batch size it was not exported with."""
    images = np.random.default_rng(0).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    found, _ = OnnxNetwork(graph).run(images)
    difference = float(abs(model.predict(images) - found).max())
    if not difference <= _TOLERANCE:
        raise PipelineError(
            f"The ONNX graph differs from the eager network by {difference:.2e} in a probability (allowed: "
            f"{_TOLERANCE}): torch cannot follow the backbone. Choose another model.backbone."
        )
