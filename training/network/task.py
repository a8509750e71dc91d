"""The LightningModule of fine-tuning: cross-entropy, AdamW, one cycle, over the whole `Classifier`."""

from __future__ import annotations

from typing import Any, Final

import torch
from lightning import LightningModule
from torch import nn
from torchmetrics import CatMetric
from torchmetrics.classification import MulticlassAccuracy

from evaluation.figures import metrics
from training.config import FinetuneConfig
from training.network.predict import predict_all
from training.photos.module import Share

MONITORED: Final = "finetune_val_calibrated_loss"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
Batch = tuple[torch.Tensor, torch.Tensor]
"""Photos `u8[N,3,S,S]` and class numbers `i64[N]`."""


class FinetuneTask(LightningModule):
    """Train `network` to classify; logs `finetune_{train,val}_{loss,accuracy}` and `MONITORED`."""

    def __init__(self, network: nn.Module, class_weights: torch.Tensor, config: FinetuneConfig) -> None:
        """`class_weights` is `f32[K]`, what a photo of each class weighs in the training loss."""
        super().__init__()
        self.class_weights: torch.Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)
        classes = len(class_weights)
        self.network, self.config = network, config
        # Checking the classes would make each step of a GPU wait for its result.
        self.train_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        # By default a metric leaves out what is not a number: a diverged network would have no loss.
        self.val_logits, self.val_targets = CatMetric("disable"), CatMetric("disable")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's input to logits `f32[N,K]`."""
        logits: torch.Tensor = self.network(images)
        return logits

    def on_train_epoch_start(self) -> None:
        """Freeze the batch norm statistics if configured."""
        if self.config.freeze_norm:
            for module in self.network.modules():
                if isinstance(module, _NORMS):
                    module.eval()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:  # noqa: ARG002 (Lightning's hook)
        """Loss of one batch."""
        images, targets = batch
        logits = self(images)
        loss = nn.functional.cross_entropy(
            logits, targets, self.class_weights, label_smoothing=self.config.label_smoothing
        )
        self.train_accuracy(logits, targets)
        self.log("finetune_train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        self.log("finetune_train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Share, batch_index: int) -> None:  # noqa: ARG002
        """Predict without augmentation, as fast as after training."""
        logits = predict_all(self.network, batch.images, chosen=batch.chosen)
        self.val_logits.update(torch.from_numpy(logits).to(self.device))
        self.val_targets.update(torch.tensor(batch.targets, device=self.device)[batch.chosen])

    def on_validation_epoch_end(self) -> None:
        """Figures; the loss after calibration chooses the checkpoint, because the export calibrates too."""
        targets = self.val_targets.compute().cpu().long()  # i64[N], of all processes
        logits = self.val_logits.compute().cpu().double().reshape(len(targets), -1)  # f64[N,K]
        self.val_logits.reset()
        self.val_targets.reset()
        self.log("finetune_val_accuracy", (logits.argmax(1) == targets).float().mean())
        self.log("finetune_val_loss", nn.functional.cross_entropy(logits, targets).float())
        self.log(MONITORED, metrics.calibrated_loss(logits.numpy(), targets.numpy()))

    def configure_optimizers(self) -> Any:
        """AdamW without weight decay on vectors (biases, norms); one cycle over all steps."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
