"""One phase of training: Lightning's trainer with our checkpoints, progress and interrupts."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch.utils.data import DataLoader

from common.progress import progress
from training.config import TrainConfig
from training.network.task import ClassificationTask
from training.photos.data import derived_seed
from training.tracking import Tracker


def quiet_lightning() -> None:
    """Without its advertisements, and what it warns of that is meant so here."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        r".*LeafSpec.* is deprecated",  # inside Lightning itself
        r"Checkpoint directory .* exists and is not empty",  # that is how a run goes on
        r".*does not have many workers",  # the head's batches are rows in memory
    ):
        warnings.filterwarnings("ignore", message=message)


def run_trainer(
    config: TrainConfig,
    task: ClassificationTask,
    tracker: Tracker | None,
    work: Path,
    epochs: int,
    callbacks: list[Callback],
    *,
    together: bool = False,
    **data: Any,
) -> float:
    """Fit with checkpoints; leave the best weights in `task.network`, return their validation loss.

    With `together`, all devices and nodes of the configuration train by DDP. Only the first process has a
    tracker.
    """
    monitor = f"{task.phase}_val_loss"
    devices, nodes = (config.trainer.devices, config.trainer.nodes) if together else (1, 1)
    best = ModelCheckpoint(work, "best", monitor=monitor, enable_version_counter=False)
    latest = ModelCheckpoint(work, "last", enable_version_counter=False)  # to go on from after a kill
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        use_distributed_sampler=False,  # `EpochSlices` knows its part
        precision=config.trainer.precision,
        max_epochs=epochs,
        logger=tracker.lightning_logger() if tracker else False,
        callbacks=[
            *callbacks,
            best,
            latest,
            EarlyStopping(monitor, patience=epochs),  # only a loss that is not finite ends a cycle early
            *([LearningRateMonitor("epoch"), Progress(task.phase)] if tracker else []),
            _StepSeed(config.seed),
            interrupt := _Interrupt(),
        ],
        default_root_dir=work,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,  # `Progress` reads well in a log too
    )
    last = work / "last.ckpt"
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is not signal.SIG_IGN:  # a job in the background stays deaf to it
        signal.signal(signal.SIGINT, interrupt.hear)
    try:
        trainer.fit(task, ckpt_path=last if last.exists() else None, weights_only=False, **data)
    except SystemExit as error:  # Lightning turns Ctrl-C into an exit, and ignores the next
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
    stored = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
    task.load_state_dict(stored["state_dict"])
    trainer.strategy.barrier()  # the first process will delete what the others have just read
    score = best.best_model_score
    return float(score) if score is not None else float("inf")


class _Interrupt(Callback):
    """Ctrl-C ends the training after the batch it is at; a second one at once.

    An exception from the signal itself can be lost: Python drops what is raised while it forks a loader's
    worker.
    """

    def __init__(self) -> None:
        self._heard = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Be the signal's handler."""
        if self._heard:
            signal.default_int_handler(number, frame)
        self._heard = True

    def on_train_batch_end(self, *batch: Any) -> None:
        """End a training that has heard it."""
        del batch
        if self._heard:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, *batch: Any) -> None:
        """The same while it validates."""
        self.on_train_batch_end(*batch)


class _StepSeed(Callback):
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
    """One bar a phase: photos a second, time left, and the latest validation figures."""

    def __init__(self, phase: str) -> None:
        self._prefix, self._bar = f"{phase}_", progress(phase, None, "photos", disable=True)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin where a resumed training stands."""
        del pl_module
        loader = trainer.train_dataloader
        self._bar = progress(
            self._prefix.rstrip("_"),
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
            name.removeprefix(self._prefix): f"{float(value):.4f}"
            for name, value in trainer.callback_metrics.items()
            if "_val_" in name
        }
        self._bar.set_postfix(shown, refresh=False)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Leave the last state of the bar."""
        del trainer, pl_module, stage
        self._bar.close()


def _be_a_worker() -> None:
    """Leave Ctrl-C to the process that forked this one, a loader's worker: it hears it, and ends this one.

    That it hung up in the middle of handing over a batch is then no fault that needs a trace.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell = sys.excepthook

    def tell_faults(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, EOFError | ConnectionError):
            tell(kind, error, trace)

    sys.excepthook = tell_faults


os.register_at_fork(after_in_child=_be_a_worker)

# Matrix products in TF32 where a GPU has it.
torch.set_float32_matmul_precision("high")
