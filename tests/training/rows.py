"""Rows of numbers instead of photos: the smallest data that a trainer accepts."""

from __future__ import annotations

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset

from training.photos.module import Share


class RowData(LightningDataModule):
    """Batches of (row, class) pairs, in order."""

    def __init__(
        self, train: Dataset[Any], validation: TensorDataset, batch_size: int, workers: int = 0
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.options = {"batch_size": batch_size, "num_workers": workers}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, **self.options)

    def val_dataloader(self) -> DataLoader[Any]:
        rows, classes = self.validation.tensors
        return Share(rows.numpy(), classes.tolist(), range(len(rows))).as_batch()
