"""The smallest real things: configurations and artefacts that train and load in a second.

Importing this module loads no torch: the tests of fetch and prepare need none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.config import DataConfig, ModelConfig, TrainConfig
from training.options import parse

if TYPE_CHECKING:
    from serving.contract.card import Card
    from training.network.build import Classifier

ROOT = Path(__file__).parent.parent
SIDE = 64
TRAIN = [
    *("--model.backbone", "compact", "--model.weights", "none", "--model.input_size", str(SIDE)),
    *("--loader.batch_size", "8", "--loader.workers", "0", "--trainer.accelerator", "cpu"),
    *("--finetune.input_sizes", f"[{SIDE}]", "--finetune.epochs_per_pass", "3"),
    *(
        "--finetune.frozen_groups",
        "0",
        "--finetune.freeze_norm",
        "false",
        "--finetune.learning_rate",
        "0.01",
        "--finetune.ema_share",
        "0.2",
    ),
    *("--head.inverse_penalty", "1e-6"),  # on a random backbone, a head of any weight would only disturb
]
HEAD_ALONE = ("--finetune.input_sizes", "[]")
"""The shortest training."""

UNCHANGED = (
    *("--augment.crop_scale_min", "0.999", "--augment.crop_ratio_max", "1.0"),
    *(
        text
        for change in ("flip", "brightness", "light", "grey", "blur", "thumbnail", "noise", "jpeg")
        for text in (f"--augment.{change}", "0")
    ),
)
"""Leaves the training photos unchanged."""


def train_config(*overrides: str) -> TrainConfig:
    """`configs/train.yaml` made tiny."""
    return parse(TrainConfig, ROOT / "configs/train.yaml", [*TRAIN, *overrides], command="tests", about="")


def data_config(*overrides: str) -> DataConfig:
    """`configs/data.yaml` with changes."""
    return parse(DataConfig, ROOT / "configs/data.yaml", [*overrides], command="tests", about="")


def write_artifact(path: Path, *, seed: int = 1, labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    """An artefact of the compact network with random weights, written as `training.export` does.

    The suffix of the path chooses the runtime.
    """
    import torch

    from training.network.build import build

    torch.manual_seed(seed)
    return export_network(path, build(ModelConfig("tiny", "compact", "none", SIDE, 0.0), len(labels)), labels)


def export_network(path: Path, network: Classifier, labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    """An artefact of a network for `SIDE` pixels, likewise."""
    import msgspec
    import torch
    from torch.nn import functional

    from serving.runtime import onnx, torchscript
    from training.export.calibrate import CalibratedClassifier
    from training.export.graph import make_graph
    from training.export.probe import make_probe
    from training.export.trace import trace_methods

    prototypes = functional.normalize(torch.rand(4, network.head.in_features))
    model = CalibratedClassifier(network, 0.5, prototypes).eval()
    probe = make_probe(model.predict, SIDE)
    described = msgspec.structs.replace(card(labels), read_size=network.read_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".onnx":
        onnx.save(path, make_graph(model, SIDE), described, probe)
    else:
        torchscript.save(path, trace_methods(model, SIDE), described, probe)
    return path


def card(labels: tuple[str, ...] = ("cat", "dog")) -> Card:
    """The card of `write_artifact`."""
    import torch

    from serving.contract.card import SCHEMA_VERSION, Card, Lineage, Measured
    from serving.contract.preprocess import RESIZE_RULE

    return Card(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        version="1",
        labels=list(labels),
        input_size=SIDE,
        resize_rule=RESIZE_RULE,
        abstain_threshold=0.8,
        temperature=0.5,
        metrics={"accuracy": Measured(0.5, 0.4, 0.6, 100)},
        lineage=Lineage("unknown", "0" * 64, "run", {"torch": str(torch.__version__)}),
    )
