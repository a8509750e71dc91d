"""A job in, its best checkpoint out: train a linear head, then the whole network, and keep the better one.

The better one has the lower loss on validation after calibration: the export calibrates, and a network that
was trained to be unsure, with label smoothing, would lose by its uncalibrated loss whatever it can do.

Progress is kept in the job's folder: killed training resumes there, in the same MLflow run.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from typing import Final

import lightning
import numpy as np
import numpy.typing as npt
import torch

from common import files
from common.errors import PipelineError
from common.lineage import git_commit
from training.config import TrainConfig
from training.fit import checkpoint
from training.fit.distributed import Processes
from training.fit.head import train_head
from training.fit.job import Job
from training.fit.report import write_report
from training.fit.trainer import finetune, quiet_lightning
from training.network.build import Classifier, build, freeze
from training.network.folding import folded
from training.network.predict import check, device_for
from training.network.task import FinetuneTask
from training.photos.module import PhotoData
from training.tracking import Tracker

_HEAD: Final = "head.pt"
_RUN: Final = "run.json"


class Diverged(PipelineError):
    """Fine-tuning found no weights with a finite loss, and there is no head to keep instead."""


def fit(job: Job, keep: str | None = None, tags: Mapping[str, str] | None = None) -> str:
    """Train as configured; write the checkpoint, its origin and the report; return the better phase.

    Args:
        job: The training.
        keep: `head` or `finetune`: the phase whose network to write; the better one by default.
        tags: Of the MLflow run, in addition to its lineage.

    Raises:
        Diverged: the loss of the network to write is not finite.
        PipelineError: there is nothing to train, the backbone is unknown, or MLflow does not answer.
    """
    if not job.config.head.enabled and not job.config.finetune.input_sizes:
        raise PipelineError(
            "head.enabled is false and finetune.input_sizes is empty: there is nothing to train. "
            "Enable one of the two phases."
        )
    quiet_lightning()
    lightning.seed_everything(job.config.seed, workers=True, verbose=False)
    processes = Processes(job.config.trainer)
    if not processes.is_first:
        return _train(job, processes, None, keep)[1]
    with _open_run(job) as tracker:
        tracker.set_tags(dict(tags or {}))
        for split in ("validation", "train"):
            if not job.photos.caches(split):
                print(f"{split} exceeds loader.cache_limit: its photos are decoded whenever they are read")
        network, best = _train(job, processes, tracker, keep)
        _write_checkpoint(job, network, tracker)  # first: a report can be written again
        write_report(job, network, tracker)
    shutil.rmtree(job.work)
    return best


def _train(
    job: Job, processes: Processes, tracker: Tracker | None, keep: str | None
) -> tuple[Classifier, str]:
    """Train both phases; return the network of `keep` or of the better phase, and which that is."""
    settings = job.config.finetune
    processes.start()
    with processes.first_alone():  # its results are cached for the others
        network = build(job.config.model, len(job.manifest.labels))
        freeze(network, job.config.model, settings.frozen_groups)
        _check(job.config, network)
        losses = _head_phase(job, network, tracker) if job.config.head.enabled else {}
        for split in ("train", "validation"):
            job.photos[split]  # decode it now, while the others wait
    head_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if settings.input_sizes:
        network.to(memory_format=torch.channels_last)
        task = FinetuneTask(network, torch.from_numpy(_class_weights(job)).float(), job.config.finetune)
        data = PhotoData(job.manifest, job.photos, job.config)
        with folded(network, job.config.model.input_size, frozen=settings.freeze_norm):
            losses["finetune"] = finetune(job.config, task, data, tracker, job.work / "finetune")
        if not math.isfinite(losses["finetune"]):
            if keep == "finetune" or "head" not in losses:
                raise Diverged("Fine-tuning diverged: the loss is not finite. Lower finetune.learning_rate.")
            print("fine-tuning diverged: the head alone is kept. Lower finetune.learning_rate.")
    best = min(losses, key=lambda phase: losses[phase])
    if (keep or best) == "head":
        network.load_state_dict(head_state)
        if settings.input_sizes and not keep:
            print("fine-tuning did not lower the validation loss: the head alone is kept")
    if tracker:
        tracker.log_metrics({"best_val_loss": losses[best]})
        tracker.set_tags({"best_phase": best})
    return network, best


def _check(config: TrainConfig, network: Classifier) -> None:
    """Refuse now what the network could not do after its training."""
    enlarged = max(config.export.read_size, config.model.input_size)
    side = config.model.input_size
    check(network, side, (*config.finetune.input_sizes, enlarged))


def _class_weights(job: Job) -> npt.NDArray[np.float64]:
    """`f64[K]`: what a training photo of each class weighs in the loss, 1 on average over the photos."""
    counts = np.bincount(job.manifest.splits["train"].targets, minlength=len(job.manifest.labels))
    weights = np.maximum(counts, 1.0) ** -job.config.class_balance
    normal: npt.NDArray[np.float64] = weights * counts.sum() / (weights * counts).sum()
    return normal


def _head_phase(job: Job, network: Classifier, tracker: Tracker | None) -> dict[str, float]:
    """Train the head, or load the one that this job has trained; return its calibrated validation loss."""
    kept = job.work / _HEAD
    if not kept.exists():
        scores = train_head(
            job.config.head,
            network,
            job.photos,
            _class_weights(job),
            device_for(job.config.trainer.accelerator),
        )
        figures = {
            f"head_{side}_{name}": value
            for side, score in (("train", scores["train"]), ("val", scores["validation"]))
            for name, value in (("loss", score.loss), ("accuracy", score.accuracy))
        }
        loss = scores["validation"].calibrated_loss
        if tracker:
            tracker.log_metrics(figures)
        with files.atomic_file(kept) as partial:
            torch.save({"head": network.head.state_dict(), "loss": loss}, partial)
    stored = torch.load(kept, weights_only=True)
    network.head.load_state_dict(stored["head"])
    return {"head": stored["loss"]}


def _open_run(job: Job) -> Tracker:
    """Resume the MLflow run of unfinished training, or start one."""
    note, commit = job.work / _RUN, git_commit()
    earlier = json.loads(note.read_text()) if note.exists() else {}
    run_id = earlier.get("mlflow_run_id")
    tracker = Tracker(job.config.tracking, run_id)
    begun_with = earlier.get("git_commit", commit)
    files.write_json(note, {"mlflow_run_id": tracker.run_id, "git_commit": begun_with})
    if begun_with != commit:
        print(f"the code has changed since this training began ({begun_with[:12]} to {commit[:12]})")
        commit = f"{begun_with} to {commit}"
    if run_id == tracker.run_id:
        print(f"resuming the unfinished training of MLflow run {run_id}")
        tracker.set_tags({"git_commit": commit})
        return tracker
    if run_id:
        print(f"resuming unfinished training; MLflow no longer has its run {run_id}: a new one continues")
    tracker.log_config(job.config)
    tracker.set_tags(
        {
            "git_commit": commit,
            "data.manifest_sha256": job.manifest.sha256,
            "data.photos": json.dumps({name: len(s.paths) for name, s in job.manifest.splits.items()}),
        }
    )
    return tracker


def _write_checkpoint(job: Job, network: Classifier, tracker: Tracker) -> None:
    state = network.to(memory_format=torch.contiguous_format).state_dict()
    checkpoint.write(
        job.place.checkpoint,
        checkpoint.Checkpoint(job.config.model, network.design, job.manifest.labels, state),
    )
    run = checkpoint.Run(tracker.run_id, job.config.tracking.experiment, job.manifest.sha256, git_commit())
    checkpoint.write_run(job.place.run, run)
