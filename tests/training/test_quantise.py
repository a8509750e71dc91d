"""Int8 predicts like fp32, and every convolution is in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from serving.contract.preprocess import preprocess
from serving.runtime import onnx as runtime
from serving.runtime.handler import load_handler
from serving.runtime.onnx import OnnxNetwork
from tests.pictures import scene
from tests.tiny import SIDE, card
from training.config import ModelConfig
from training.export.calibrate import CalibratedClassifier
from training.export.graph import make_graph, with_temperature
from training.export.probe import make_probe
from training.export.quantise import quantise
from training.network.build import build

IMAGES = np.stack(
    [np.asarray(scene(SIDE, SIDE).rotate(7 * number)).transpose(2, 0, 1) for number in range(32)]
)


def graph_of(backbone: str) -> bytes:
    """A network's graph, with ImageNet weights if there are any."""
    torch.manual_seed(1)
    weights = "none" if backbone == "compact" else "pretrained"
    network = build(ModelConfig("tiny", backbone, weights, SIDE, 0.0), 2).eval()
    prototypes = torch.nn.functional.normalize(torch.rand(4, network.head.in_features))
    return make_graph(CalibratedClassifier(network, 1.0, prototypes).eval(), SIDE)


@pytest.mark.parametrize("backbone", ["compact", "efficientnet_lite0"])
def test_int8_agrees_with_fp32_and_every_convolution_is_in_int8(backbone: str):
    """The maps agree in direction; weights are bytes, and ReLU6 is part of the convolution before it."""
    whole = graph_of(backbone)
    small = quantise(whole, IMAGES)
    expected, found = (
        OnnxNetwork(graph).explain(IMAGES).reshape(len(IMAGES), -1) for graph in (whole, small)
    )
    likeness = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert np.median(likeness) > 0.9
    graph = onnx.load_model_from_string(small).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            weights = made_by[node.input[1]]
            assert weights.op_type == "DequantizeLinear"
            assert kinds[weights.input[0]] == onnx.TensorProto.INT8
    left = [node for node in graph.node if node.op_type in ("Clip", "Relu")]
    assert [made_by[node.input[0]].op_type for node in left] == ["ReduceL2"], "the length of the features"
    near, far = (OnnxNetwork(one).run(IMAGES)[1] for one in (whole, small))
    assert np.abs(near - far).max() < 0.05


def test_the_weights_of_int8_take_seven_bits():
    """With eight, sums of two products saturate on a CPU without VNNI."""
    graph = onnx.load_model_from_string(quantise(graph_of("compact"), IMAGES[:8])).graph
    weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer if "weight_quantized" in one.name]
    weights = [one for one in weights if one.dtype == np.int8]
    assert len(weights) == 10
    assert all(np.abs(one.astype(int)).max() <= 64 for one in weights)


def test_an_int8_artefact_can_be_served_and_is_smaller(tmp_path: Path):
    """It passes its probe, explains, and takes less than half of the bytes."""
    whole = graph_of("efficientnet_lite0")
    for name, graph in (("int8", quantise(whole, IMAGES[:16])), ("fp32", whole)):
        network = OnnxNetwork(graph)
        probe = make_probe(lambda pixels, network=network: network.run(pixels)[0], SIDE)
        runtime.save(tmp_path / f"{name}.onnx", graph, card(), probe)
    answers = []
    for name in ("int8", "fp32"):
        handler = load_handler(tmp_path / f"{name}.onnx")
        picture = handler.artifact.probe[0].data
        answers.append(handler.handle([{"body": picture}])[0].probability)
        assert handler.explain(preprocess(picture, SIDE))["cat"].shape == (2, 2)
    assert abs(answers[0] - answers[1]) < 0.1
    assert (tmp_path / "int8.onnx").stat().st_size < 0.45 * (tmp_path / "fp32.onnx").stat().st_size


def test_another_temperature_changes_the_probabilities_alone():
    """A temperature of two halves the logits."""
    graph = graph_of("compact")
    before, after = (OnnxNetwork(with_temperature(graph, t)) for t in (1.0, 2.0))
    (first, near), (second, far) = before.run(IMAGES), after.run(IMAGES)
    logits = np.log(first[:, 0] / first[:, 1])
    assert np.allclose(np.log(second[:, 0] / second[:, 1]), logits / 2, atol=1e-4)
    assert np.array_equal(near, far)
