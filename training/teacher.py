"""Manifest in, a teacher's answers out: a larger network is trained, and answers every training photo.

The network that is served learns from these answers beside the labels (`teacher.share`). The teacher is
trained as configs/teacher.yaml says, in `build/teacher`; like any training it goes on where it was cut.
Its answer is the mean of those for the photo and for its mirror image.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import yaml
from scipy.special import softmax

from common import files
from common.errors import PipelineError
from training import place, workplace
from training.config import TrainConfig
from training.network.build import Classifier
from training.network.predict import forward_all
from training.photos.data import Manifest, read_manifest
from training.photos.decoded import DecodedPhotos

_CONFIG: Final = Path("configs/teacher.yaml")
_LEAST: Final = 1e-7  # of a probability, for its logarithm


class _Mirrored(torch.nn.Module):
    """A classifier that looks at the mirror image."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to logits `f32[N,K]`."""
        logits: torch.Tensor = self.network(images.flip(3))
        return logits


def teach(config: TrainConfig) -> None:
    """Train the teacher and write its answers, `models/teacher.npz`; none where `teacher.share` is 0.

    Raises:
        PipelineError: no manifest, or the training fails.
    """
    manifest = read_manifest()
    if not config.teacher.share:
        print("teacher.share is 0: no teacher is trained.")
        _write(np.zeros((0, len(manifest.labels)), np.float32), manifest, "")
        return
    work = place.TEACHER_WORK
    place.PHOTOS.mkdir(parents=True, exist_ok=True)
    workplace.link(work, place.RAW, place.PREPARED, place.PHOTOS, _CONFIG.parent)
    (work / "base.yaml").write_text(yaml.safe_dump(asdict(config)), encoding="utf-8")
    alone = ["--teacher.share", "0", "--trainer.nodes", "1"]
    options = ["--config", "base.yaml", "--config", str(_CONFIG), *alone]
    network = workplace.fit(work, options, config.tracking)
    run = json.loads((work / place.RUN).read_text())["mlflow_run_id"]
    images = DecodedPhotos(manifest, config.model.input_size)["train"]
    views = {"photos": network, "mirror images": _Mirrored(network)}
    answers = [
        softmax(forward_all(view, images, title=f"teacher, {name}"), 1) for name, view in views.items()
    ]
    _write(np.log(np.mean(answers, axis=0).clip(_LEAST)), manifest, run)
    shutil.rmtree(work)


def _write(answers: npt.NDArray[np.float32], manifest: Manifest, run: str) -> None:
    with files.atomic_file(place.TEACHER) as partial, partial.open("wb") as file:
        np.savez(file, log_probabilities=answers, data_sha256=manifest.sha256, mlflow_run_id=run)


def read_answers(config: TrainConfig, manifest: Manifest) -> npt.NDArray[np.float32] | None:
    """The teacher's log probabilities `f32[N,K]` of the training split; None without a teacher.

    Raises:
        PipelineError: a teacher is wanted, and there are no answers for these photos.
    """
    if not config.teacher.share:
        return None
    if not place.TEACHER.exists():
        raise PipelineError(
            f"teacher.share is {config.teacher.share} and there is no {place.TEACHER}. Train the teacher "
            "first: python -m training teach; or train without one: --teacher.share 0."
        )
    with np.load(place.TEACHER, allow_pickle=False) as stored:
        answers, data = stored["log_probabilities"], str(stored["data_sha256"])
    if data != manifest.sha256 or len(answers) != len(manifest.splits["train"].targets):
        raise PipelineError(
            f"{place.TEACHER} answers for other photos, or is empty. Train the teacher again: "
            "python -m training teach."
        )
    return np.asarray(answers, np.float32)
