"""Decoded photos in, batches out: `u8[N,3,S,S]` and `i64[N]` class numbers, for Lightning's trainer.

Photos come decoded, or are decoded in the loader's processes (see `training.photos.decoded`). Their order and
augmentation depend only on the seed, the epoch and the photo, so a resumed run continues exactly like an
uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from common.errors import PipelineError
from training.config import TrainConfig
from training.photos.augment import augmentation
from training.photos.decoded import Photos
from training.photos.manifest import Manifest
from training.photos.sampler import EpochSlices
from training.seeds import derived_seed

Photo = tuple[torch.Tensor, int]
"""Pixels `u8[3,S,S]` and class number."""


class AugmentedDataset(Dataset[Photo]):
    """Photos for training, addressed by `(epoch, index)`: the pair seeds the augmentation."""

    def __init__(
        self,
        images: Photos,
        targets: list[int],
        augment: list[v2.Transform],
        epochs_per_pass: int,
        seed: int,
    ) -> None:
        """`images` is `u8[N,3,S,S]`; `augment` has one transform per pass."""
        self.images, self.targets, self.augment = images, targets, augment
        self.epochs_per_pass, self.seed = epochs_per_pass, seed

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: tuple[int, int]) -> Photo:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, epoch, index))
            image = self.augment[epoch // self.epochs_per_pass](torch.tensor(self.images[index]))
        return image, self.targets[index]


class Share:
    """The photos of a split that one process predicts, left where they are."""

    def __init__(self, images: Photos, targets: list[int], chosen: range) -> None:
        """`images` is `u8[N,3,S,S]`, of the whole split as `targets` are; `chosen` counts in both."""
        self.images, self.targets, self.chosen = images, targets, chosen

    def as_batch(self) -> DataLoader[Share]:
        """A loader of one batch, this one."""
        dataset: Any = [self]
        return DataLoader(dataset, batch_size=None, collate_fn=lambda share: share)


class PhotoData(LightningDataModule):
    """Training photos with augmentation, validation photos as the service sees them."""

    def __init__(self, manifest: Manifest, photos: Mapping[str, Photos], config: TrainConfig) -> None:
        """`photos` holds `u8[N,3,S,S]` of each split."""
        super().__init__()
        self.manifest, self.photos, self.config = manifest, photos, config

    def train_dataloader(self) -> DataLoader[Photo]:
        """Batches of `(u8[N,3,s,s], i64[N])`; s is the size of the pass.

        Raises:
            PipelineError: the processes cannot share the batches equally.
        """
        config, targets = self.config, self.manifest.splits["train"].targets
        rank, world = self._rank_and_world()
        batch_size = config.loader.batch_size
        if batch_size % world or (world > 1 and len(targets) < batch_size):
            raise PipelineError(
                f"{world} processes cannot share {len(targets)} photos in batches of {batch_size} equally. "
                "Set loader.batch_size to a multiple of the processes, no larger than the training split."
            )
        epochs = config.finetune.epochs_per_pass
        augment = [augmentation(config.augment, size) for size in config.finetune.input_sizes]
        dataset = AugmentedDataset(self.photos["train"], targets, augment, epochs, config.seed)
        slices = EpochSlices(len(targets), epochs, batch_size, config.seed, rank, world)
        return DataLoader(
            dataset,
            batch_size=batch_size // world,
            sampler=slices,
            drop_last=len(targets) >= batch_size,
            num_workers=config.loader.workers,
            persistent_workers=config.loader.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Share]:
        """One batch: the process's share of the photos.

        Raises:
            PipelineError: a process would have none.
        """
        rank, world = self._rank_and_world()
        targets = self.manifest.splits["validation"].targets
        if len(targets) < world:
            raise PipelineError(
                f"{world} processes cannot share {len(targets)} validation photos. Use fewer processes "
                "(trainer.devices, trainer.nodes), or add photos: make data."
            )
        return Share(self.photos["validation"], targets, range(rank, len(targets), world)).as_batch()

    def _rank_and_world(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
