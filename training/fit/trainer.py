"""Lightning's trainer as the project uses it, and fine-tuning with it: resumable, best weights at the end."""

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
    """Without its advertisements, and what it warns of that is meant so here."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        r".*LeafSpec.* is deprecated",  # inside Lightning itself
        r"Checkpoint directory .* exists and is not empty",  # that is how a run resumes
        r".*does not have many workers",  # `loader.workers` says how many
    ):
        warnings.filterwarnings("ignore", message=message)


def new_trainer(config: TrainConfig, callbacks: list[Callback], **options: Any) -> lightning.Trainer:
    """A trainer on the configured device that shows and checks nothing of its own.

    Args:
        config: Device, precision, seed and moving average.
        callbacks: Called besides those that every training of this project has.
        **options: Passed to Lightning's `Trainer`.
    """
    ema = config.finetune.ema_decay
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        precision=config.trainer.precision,
        use_distributed_sampler=False,  # `EpochSlices` knows its part
        callbacks=[
            *([EMAWeightAveraging(decay=ema)] if ema else []),
            *callbacks,
            StepSeed(config.seed),
        ],
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,  # `Progress` reads well in a log too
        **options,
    )


def finetune(
    config: TrainConfig,
    task: FinetuneTask,
    data: LightningDataModule,
    tracker: Tracker | None,
    work: Path,
) -> float:
    """Fine-tune with checkpoints in `work`; leave the best weights in the task, return their validation loss.

    All devices and nodes of the configuration train by DDP. Only the first process has a tracker.
    """
    monitor, settings = "finetune_val_loss", config.finetune
    epochs = len(settings.input_sizes) * settings.epochs_per_pass
    best = ModelCheckpoint(work, "best", monitor=monitor, enable_version_counter=False)
    latest = ModelCheckpoint(work, "last", enable_version_counter=False)  # to resume from after a kill
    callbacks: list[Callback] = [
        best,
        latest,
        EarlyStopping(monitor, patience=epochs),  # only a loss that is not finite ends a cycle early
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
    with interrupt.heard():
        trainer.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=False)
    stored = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
    task.load_state_dict(stored["state_dict"])
    trainer.strategy.barrier()  # the first process will delete what the others have just read
    score = best.best_model_score
    return float(score) if score is not None else float("inf")
