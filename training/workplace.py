"""Another training in a folder of its own, tracked where this one is: for the teacher and the ablation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from common.errors import PipelineError
from training import place
from training.config import ModelConfig, TrackingConfig
from training.network.build import Classifier, build
from training.tracking import absolute

_INTERRUPTED = 130  # the exit status of Ctrl-C
_HEARD_IT_TOO = 10.0
"""Seconds in which a command ends that Ctrl-C has reached."""


def link(folder: Path, *parts: Path) -> None:
    """Let `folder` see these parts of the present one."""
    for part in parts:
        place = folder / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(part.absolute())


def run(command: list[str], folder: Path, environment: dict[str, str]) -> int:
    """The exit status of a command; on Ctrl-C it has the time to end well.

    `subprocess.run` kills it after a quarter of a second, in the middle of what it writes.
    """
    with subprocess.Popen(command, cwd=folder, env=environment) as process:  # noqa: S603
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                process.wait(_HEARD_IT_TOO)
            except subprocess.TimeoutExpired:  # no terminal sent it to both
                process.send_signal(signal.SIGINT)
                process.wait()
            raise


def fit(folder: Path, options: list[str], tracking: TrackingConfig) -> Classifier:
    """Run `python -m training fit` in `folder`; return the network it leaves, ready to evaluate.

    Raises:
        PipelineError: the training failed.
    """
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "MLFLOW_TRACKING_URI": absolute(os.environ.get("MLFLOW_TRACKING_URI") or tracking.uri),
    }
    artifacts = ["--tracking.artifact_location", str(Path(tracking.artifact_location).absolute())]
    command = [sys.executable, "-m", "training", "fit", *options, *artifacts]
    status = run(command, folder, environment)
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise PipelineError(f"The training in {folder} failed; what it printed stands above.")
    checkpoint = torch.load(folder / place.CHECKPOINT, map_location="cpu", weights_only=True)
    network = build(ModelConfig(**checkpoint["model"]), len(checkpoint["labels"]), weights=False)
    network.load_state_dict(checkpoint["state_dict"])
    return network.eval()
