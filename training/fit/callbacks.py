"""Trainer callbacks: a seed for each step, and the progress bar."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from common.progress import progress
from training.seeds import derived_seed


class StepSeed(Callback):
    """Seeds each step, so that dropout depends on seed, epoch and step alone and a resumed run repeats it.

    One seed per run is not enough: loaders draw from the generator too, in a resumed run at other moments.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the seed before the step's first draw."""
        del pl_module, batch
        others = (trainer.global_rank,) if trainer.global_rank else ()  # each process drops other features
        torch.manual_seed(derived_seed(self._seed, trainer.current_epoch, batch_idx, *others))


class Progress(Callback):
    """One bar: photos per second, time left, and the latest validation figures."""

    def __init__(self) -> None:
        self._bar = progress("finetune", None, "photos", disable=True)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the bar at the step of a resumed run."""
        del pl_module
        loader = trainer.train_dataloader
        self._bar = progress(
            "finetune",
            int(trainer.estimated_stepping_batches),
            "photos",
            initial=trainer.global_step,
            unit_scale=(loader.batch_size or 1) * trainer.world_size if isinstance(loader, DataLoader) else 1,
        )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch: Any
    ) -> None:
        """Count a batch."""
        del trainer, pl_module, batch
        self._bar.update()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show loss and accuracy."""
        del pl_module
        shown = {
            name.removeprefix("finetune_"): f"{float(value):.4f}"
            for name, value in trainer.callback_metrics.items()
            if "_val_" in name
        }
        self._bar.set_postfix(shown, refresh=False)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the bar in its last state."""
        del trainer, pl_module, stage
        self._bar.close()
