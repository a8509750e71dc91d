"""The LightningModule of both phases: cross-entropy, AdamW, one cycle.

In the first phase the network is the head alone and its inputs are cached features; in the second
it is the whole `Classifier` on photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
Batch = tuple[torch.Tensor, ...]
"""Inputs, class numbers `i64[N]` and, with a teacher, its log probabilities `f32[N,K]`."""


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How the weights move."""

    learning_rate: float
    weight_decay: float
    label_smoothing: float = 0.0
    freeze_norm: bool = False
    teacher_share: float = 0.0
    teacher_temperature: float = 1.0


class ClassificationTask(LightningModule):
    """Train `network` to classify; logs `{phase}_{train,val}_{loss,accuracy}`."""

    def __init__(self, network: nn.Module, classes: int, phase: str, optimisation: Optimisation) -> None:
        super().__init__()
        self.network, self.phase, self.optimisation = network, phase, optimisation
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")
        self.val_loss = MeanMetric()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of the phase to logits `f32[N,K]`."""
        logits: torch.Tensor = self.network(inputs)
        return logits

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of batch norm where the configuration says so."""
        if self.optimisation.freeze_norm:
            for module in self.network.modules():
                if isinstance(module, _NORMS):
                    module.eval()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:  # noqa: ARG002 (Lightning's hook)
        """Loss of one batch."""
        inputs, targets, *teacher = batch
        logits = self(inputs)
        loss = nn.functional.cross_entropy(logits, targets, label_smoothing=self.optimisation.label_smoothing)
        if teacher:
            share, temperature = self.optimisation.teacher_share, self.optimisation.teacher_temperature
            loss = (1 - share) * loss + share * distillation(logits, teacher[0], temperature)
        self.train_accuracy(logits, targets)
        self.log(f"{self.phase}_train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        self.log(f"{self.phase}_train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:  # noqa: ARG002
        """Loss and accuracy on unchanged photos."""
        inputs, targets, *_ = batch
        logits = self(inputs)
        self.val_accuracy(logits, targets)
        self.val_loss(nn.functional.cross_entropy(logits, targets), len(targets))
        self.log(f"{self.phase}_val_loss", self.val_loss)
        self.log(f"{self.phase}_val_accuracy", self.val_accuracy)

    def configure_optimizers(self) -> Any:
        """AdamW without decay on vectors (biases, norms), one cycle over all steps."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.optimisation.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.optimisation.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.optimisation.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def distillation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far the softened answers are from the teacher's, in nats times the temperature squared.

    Hinton et al. 2015, "Distilling the knowledge in a neural network": the square keeps the gradient's size
    the same at every temperature.

    Args:
        logits: `f32[N,K]` of the network that learns.
        teacher: `f32[N,K]` logits or log probabilities.
        temperature: Above 1 the small probabilities count more.
    """
    student = nn.functional.log_softmax(logits / temperature, dim=1)
    wanted = nn.functional.log_softmax(teacher / temperature, dim=1)
    distance = nn.functional.kl_div(student, wanted, reduction="batchmean", log_target=True)
    return distance * temperature**2
