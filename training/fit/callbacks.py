"""What the trainer calls at each step and epoch: seeds and the progress bar."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from common.progress import progress
from training.seeds import derived_seed


class StepSeed(Callback):
    """Dropout depends on seed, epoch and step alone, so a resumed run draws what an unbroken one does.

    Each step is seeded by itself: the loaders draw too, and at other moments in a run that is resumed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed before the step's first draw."""
        del pl_module, batch
        others = (trainer.global_rank,) if trainer.global_rank else ()  # each drops other features
        torch.manual_seed(derived_seed(self._seed, trainer.current_epoch, batch_idx, *others))


class Progress(Callback):
    """One bar: photos a second, time left, and the latest validation figures."""

    def __init__(self) -> None:
        self._bar = progress("finetune", None, "photos", disable=True)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin where a resumed training stands."""
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
        """Leave the last state of the bar."""
        del trainer, pl_module, stage
        self._bar.close()
