"""Lightning's trainer with this project's settings, and resumable fine-tuning that keeps the best weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    WeightAveraging,
)
from torch.optim.swa_utils import get_ema_multi_avg_fn

from common.errors import PipelineError
from training.config import TrainConfig
from training.fit.callbacks import Progress, StepSeed
from training.fit.interrupts import Interrupt
from training.network.task import MONITORED, FinetuneTask
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


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights over a share of all steps.

    The decay follows from the number of steps, and is smaller in the first ones: with a fixed decay, short
    training would hardly move the average away from the weights that it began with. With the decay
    `d = 1 - 1 / (share * steps)` the average after t steps weighs step i by `d**(t - i)`, and the initial
    weights not at all: bias correction as in Adam (Kingma and Ba 2015, section 3,
    https://arxiv.org/abs/1412.6980).
    """

    def __init__(self, share: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self._share, self._decay = share, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know the number of steps."""
        super().on_train_start(trainer, pl_module)
        self._decay = max(0.0, 1 - 1 / max(1.0, self._share * trainer.estimated_stepping_batches))

    def _average(self, averaged: list[torch.Tensor], current: list[torch.Tensor], steps: Any) -> None:
        done = int(steps) + 1
        decay = (self._decay - self._decay**done) / (1 - self._decay**done)
        get_ema_multi_avg_fn(decay)(averaged, current, steps)  # type: ignore[no-untyped-call]


def new_trainer(config: TrainConfig, callbacks: list[Callback], **options: Any) -> lightning.Trainer:
    """A trainer on the configured device, without Lightning's own bar, summary and sanity check.

    Args:
        config: Device, precision, seed and moving average.
        callbacks: In addition to those of every training.
        **options: Passed to Lightning's `Trainer`.
    """
    share = config.finetune.ema_share
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        precision=config.trainer.precision,
        use_distributed_sampler=False,  # `EpochSlices` divides the batches
        callbacks=[
            *([MovingAverage(share)] if share else []),
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
    """Fine-tune with checkpoints in `work`; load the best weights, return their calibrated loss.

    All configured devices and nodes train with DDP. Only the first process has a tracker.
    """
    settings = config.finetune
    epochs = len(settings.input_sizes) * settings.epochs_per_pass
    best = ModelCheckpoint(work, "best", monitor=MONITORED, enable_version_counter=False)
    # To resume from after a kill, within a pass too.
    latest = ModelCheckpoint(work, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    callbacks: list[Callback] = [
        best,
        latest,
        EarlyStopping(MONITORED, patience=epochs),  # only a non-finite loss ends a cycle early
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
        check_val_every_n_epoch=settings.epochs_per_pass,
        logger=tracker.lightning_logger() if tracker else False,
        default_root_dir=work,
        log_every_n_steps=1,
    )
    last = work / "last.ckpt"
    with interrupt.handling_sigint(), _shared_memory_explained():
        trainer.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=False)
    stored = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
    task.load_state_dict(stored["state_dict"])
    trainer.strategy.barrier()  # the first process deletes the file that the others read
    score = best.best_model_score
    return float(score) if score is not None else float("inf")


@contextmanager
def _shared_memory_explained() -> Iterator[None]:
    """The loader's processes hand over batches in shared memory; a container has 64 MB by default."""
    try:
        yield
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise PipelineError(
            "There is too little shared memory (/dev/shm) for the processes that load photos. Give the "
            "container more (--shm-size 1g), or set loader.workers=0 to load in the training process."
        ) from error
