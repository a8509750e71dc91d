"""Lightning's trainer with this project's settings, and resumable fine-tuning that keeps the best weights."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningDataModule
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)

from training.config import TrainConfig
from training.fit.callbacks import Progress, StepSeed
from training.fit.interrupts import Interrupt
from training.network.task import FinetuneTask
from training.tracking import Tracker

# Matrix products in TF32 where a GPU has it.
torch.set_float32_matmul_precision("high")


def quiet_lightning() -> None:
    """Silence Lightning's advertisements and its warnings about what is intended here."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        r".*LeafSpec.* is deprecated",  # inside Lightning itself
        r"Checkpoint directory .* exists and is not empty",  # resuming needs it
        r".*does not have many workers",  # `loader.workers` is a choice
    ):
        warnings.filterwarnings("ignore", message=message)


def new_trainer(config: TrainConfig, callbacks: list[Callback], **options: Any) -> lightning.Trainer:
    """A trainer on the configured device, without Lightning's own bar, summary and sanity check.

    Args:
        config: Device, precision, seed and moving average.
        callbacks: In addition to those of every training.
        **options: Passed to Lightning's `Trainer`.
    """
    ema = config.finetune.ema_decay
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        precision=config.trainer.precision,
        use_distributed_sampler=False,  # `EpochSlices` divides the batches
        callbacks=[
            *([EMAWeightAveraging(decay=ema)] if ema else []),
            *callbacks,
            StepSeed(config.seed),
        ],
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,  # `Progress` is readable in a log too
        **options,
    )


def finetune(
    config: TrainConfig,
    task: FinetuneTask,
    data: LightningDataModule,
    tracker: Tracker | None,
    work: Path,
) -> float:
    """Fine-tune with checkpoints in `work`; load the best weights into the task, return their loss.

    All configured devices and nodes train with DDP. Only the first process has a tracker.
    """
    monitor, settings = "finetune_val_loss", config.finetune
    epochs = len(settings.input_sizes) * settings.epochs_per_pass
    best = ModelCheckpoint(work, "best", monitor=monitor, enable_version_counter=False)
    latest = ModelCheckpoint(work, "last", enable_version_counter=False)  # to resume from after a kill
    callbacks: list[Callback] = [
        best,
        latest,
        EarlyStopping(monitor, patience=epochs),  # only a non-finite loss ends a cycle early
        *([LearningRateMonitor("epoch"), Progress()] if tracker else []),
        interrupt := Interrupt(),
    ]
    devices, nodes = config.trainer.devices, config.trainer.nodes
    trainer = new_trainer(
        config,
        callbacks,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        max_epochs=epochs,
        logger=tracker.lightning_logger() if tracker else False,
        default_root_dir=work,
        log_every_n_steps=1,
    )
    last = work / "last.ckpt"
    with interrupt.handling_sigint():
        trainer.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=False)
    stored = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
    task.load_state_dict(stored["state_dict"])
    trainer.strategy.barrier()  # the first process deletes the file that the others read
    score = best.best_model_score
    return float(score) if score is not None else float("inf")
