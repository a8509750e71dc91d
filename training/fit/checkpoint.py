"""The checkpoint's format: training writes it; export, audit and ablation read it.

`models/checkpoint.ckpt` is the network; `models/run.json` names the MLflow run and the photos behind it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from common import files
from common.errors import PipelineError
from training.config import ModelConfig
from training.network.build import Classifier, rebuild
from training.network.weights import Design

_SCHEMA: Final = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network as stored."""

    model: ModelConfig
    design: Design
    labels: list[str]
    """Classes, in order of the logits."""
    state_dict: dict[str, torch.Tensor]

    def network(self) -> Classifier:
        """The network with these weights, in evaluation mode."""
        network = rebuild(self.design, len(self.labels), self.model.dropout)
        network.load_state_dict(self.state_dict)
        return network.eval()


@dataclass(frozen=True, slots=True)
class Run:
    """Where a checkpoint comes from."""

    mlflow_run_id: str
    mlflow_experiment: str
    data_sha256: str
    """`Manifest.sha256` of the photos it was trained on."""
    git_commit: str


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    stored = {
        "schema": _SCHEMA,
        "model": asdict(checkpoint.model),
        "design": asdict(checkpoint.design),
        "labels": checkpoint.labels,
        "state_dict": checkpoint.state_dict,
    }
    with files.atomic_file(path) as partial:
        torch.save(stored, partial)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code in it.

    Raises:
        PipelineError: the file is missing, damaged, or of another schema.
    """
    if not path.exists():
        raise PipelineError(f"There is no checkpoint at {path}. Train first: make train.")
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds on a damaged file
        raise PipelineError(f"{path} is damaged. Train again: make train.") from error
    if stored.get("schema") != _SCHEMA:
        raise PipelineError(f"{path} has another checkpoint version. Train again: make train.")
    return Checkpoint(
        ModelConfig(**stored["model"]), Design(**stored["design"]), stored["labels"], stored["state_dict"]
    )


def write_run(path: Path, run: Run) -> None:
    """Write where the checkpoint comes from."""
    files.write_json(path, run)


def read_run(path: Path) -> Run:
    """Read where the checkpoint comes from.

    Raises:
        PipelineError: the file is missing or damaged.
    """
    if not path.exists():
        raise PipelineError(f"There is no {path}, which names the MLflow run. Train first: make train.")
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise PipelineError(f"{path} is damaged. Train again: make train.") from error
