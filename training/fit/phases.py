"""A job in, its best checkpoint out: train a linear head, then the whole network, and keep the better one.

Progress is kept in the job's folder: killed training resumes there, in the same MLflow run.
"""

from __future__ import annotations

import json
import shutil
from typing import Final

import lightning
import torch

from common import files
from common.errors import PipelineError
from training.fit import checkpoint
from training.fit.distributed import Processes
from training.fit.head import train_head
from training.fit.job import Job
from training.fit.report import write_report
from training.fit.trainer import finetune, quiet_lightning
from training.lineage import git_commit
from training.network.build import Classifier, build
from training.network.task import FinetuneTask
from training.photos.module import PhotoData
from training.tracking import Tracker

_HEAD: Final = "head.pt"
_RUN: Final = "run.json"


def fit(job: Job) -> None:
    """Train as configured; write the checkpoint, its origin and the report.

    Raises:
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
        _train(job, processes, None)
        return
    tracker = _open_run(job)
    status = "FAILED"
    try:
        network = _train(job, processes, tracker)
        write_report(job, network, tracker)
        _write_checkpoint(job, network, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    shutil.rmtree(job.work)


def _train(job: Job, processes: Processes, tracker: Tracker | None) -> Classifier:
    """Train both phases; return the network of the one with the lower validation loss."""
    processes.start()
    with processes.first_alone():  # its results are cached for the others
        network = build(job.config.model, len(job.manifest.labels))
        losses = _head_phase(job, network, tracker) if job.config.head.enabled else {}
        for split in ("train", "validation"):
            job.photos[split]  # decode it now, while the others wait
    head_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if job.config.finetune.input_sizes:
        network.to(memory_format=torch.channels_last)
        task = FinetuneTask(network, len(job.manifest.labels), job.config.finetune)
        data = PhotoData(job.manifest, job.photos, job.config)
        losses["finetune"] = finetune(job.config, task, data, tracker, job.work / "finetune")
    best = min(losses, key=lambda phase: losses[phase])
    if best == "head":
        network.load_state_dict(head_state)
    if tracker:
        tracker.log_metrics({"best_val_loss": losses[best]})
        tracker.set_tags({"best_phase": best})
    return network


def _head_phase(job: Job, network: Classifier, tracker: Tracker | None) -> dict[str, float]:
    """Train the head, or load the one that this job has trained; return its validation loss."""
    kept = job.work / _HEAD
    if not kept.exists():
        scores = train_head(job.config.head, network, job.photos)
        figures = {
            f"head_{side}_{name}": value
            for side, score in (("train", scores["train"]), ("val", scores["validation"]))
            for name, value in (("loss", score.loss), ("accuracy", score.accuracy))
        }
        if tracker:
            tracker.log_metrics(figures)
        with files.atomic_file(kept) as partial:
            torch.save({"head": network.head.state_dict(), "loss": figures["head_val_loss"]}, partial)
    stored = torch.load(kept, weights_only=True)
    network.head.load_state_dict(stored["head"])
    return {"head": stored["loss"]}


def _open_run(job: Job) -> Tracker:
    """Resume the MLflow run of unfinished training, or start one."""
    note = job.work / _RUN
    run_id = json.loads(note.read_text())["mlflow_run_id"] if note.exists() else None
    tracker = Tracker(job.config.tracking, run_id)
    if run_id:
        print(f"resuming the unfinished training of MLflow run {run_id}")
        return tracker
    files.write_json(note, {"mlflow_run_id": tracker.run_id})
    tracker.log_config(job.config)
    tracker.set_tags(
        {
            "git_commit": git_commit(),
            "data.manifest_sha256": job.manifest.sha256,
            "data.photos": json.dumps({name: len(s.paths) for name, s in job.manifest.splits.items()}),
        }
    )
    return tracker


def _write_checkpoint(job: Job, network: Classifier, tracker: Tracker) -> None:
    state = network.to(memory_format=torch.contiguous_format).state_dict()
    checkpoint.write(
        job.place.checkpoint, checkpoint.Checkpoint(job.config.model, job.manifest.labels, state)
    )
    run = checkpoint.Run(tracker.run_id, job.config.tracking.experiment, job.manifest.sha256, git_commit())
    checkpoint.write_run(job.place.run, run)
