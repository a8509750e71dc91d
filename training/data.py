"""Manifest in, batches out: `u8[N,3,S,S]` and `i64[N]` class numbers.

Photos are decoded by the function that serves. Order and augmentation of a photo depend on the
seed, the epoch and the photo alone, so a resumed run goes on exactly as an unbroken one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from serving.preprocess import preprocess
from training import paths
from training.config import AugmentConfig, TrainConfig
from training.errors import PipelineError
from training.files import sha256


@dataclass(frozen=True, slots=True)
class Split:
    """The photos of one split, in the manifest's order."""

    paths: list[Path]
    targets: list[int]
    """Class numbers, indices into `Manifest.labels`."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `training.prepare` wrote."""

    labels: list[str]
    splits: dict[str, Split]
    sha256: str
    """Of the manifest file: names the exact photos, labels and split."""


def read_manifest(path: Path = paths.MANIFEST, raw: Path = paths.RAW) -> Manifest:
    """Read the manifest.

    Raises:
        PipelineError: there is none.
    """
    if not path.exists():
        raise PipelineError(f"There is no manifest at {path}. Prepare the photos first: make data.")
    table = pd.read_csv(path)
    labels = sorted(table["label"].unique())
    number = {label: index for index, label in enumerate(labels)}
    splits = {
        str(name): Split([raw / p for p in rows["path"]], [number[label] for label in rows["label"]])
        for name, rows in table.groupby("split")
    }
    return Manifest(labels, splits, sha256(path))


def decode(path: Path, size: int) -> torch.Tensor:
    """One photo as `u8[3,S,S]`, 0..255, RGB."""
    return torch.from_numpy(preprocess(path.read_bytes(), size).pixels)


class PhotoDataset(Dataset[tuple[torch.Tensor, int]]):
    """Photos for evaluation: `(u8[3,S,S], class number)` by index."""

    def __init__(self, split: Split, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return len(self.split.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return decode(self.split.paths[index], self.size), self.split.targets[index]


class AugmentedDataset(Dataset[tuple[torch.Tensor, int]]):
    """Photos for training, addressed by `(epoch, index)`: the pair seeds the augmentation."""

    def __init__(self, split: Split, size: int, augment: v2.Transform, seed: int) -> None:
        self.split, self.size, self.augment, self.seed = split, size, augment, seed

    def __len__(self) -> int:
        return len(self.split.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.seed, epoch, index))
            image = self.augment(decode(self.split.paths[index], self.size))
        return image, self.split.targets[index]


class EpochSlices(Sampler[tuple[int, int]]):
    """Cut each pass over `n` photos into epochs: epoch e takes slice `e % k` of pass `e // k`.

    Epochs shorter than a pass give validation, checkpoints and resuming often enough on slow machines.
    Lightning calls `set_epoch`.
    """

    def __init__(self, n: int, epochs_per_pass: int, batch_size: int, seed: int) -> None:
        self.n, self.epochs_per_pass, self.seed = n, epochs_per_pass, seed
        batches = max(1, n // batch_size)
        self.per_epoch = max(1, batches // epochs_per_pass) * min(batch_size, n)
        self.epoch = 0

    def __len__(self) -> int:
        return self.per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        whole, part = divmod(self.epoch, self.epochs_per_pass)
        order = np.random.default_rng((self.seed, whole)).permutation(self.n)
        start = part * self.per_epoch
        for index in order[start : start + self.per_epoch]:
            yield self.epoch, int(index)


def augmentation(config: AugmentConfig, size: int) -> v2.Transform:
    """Random changes on `u8[3,S,S]`, result `u8[3,size,size]`."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size,
                scale=(config.crop_scale_min, 1.0),
                ratio=(1 / config.crop_ratio_max, config.crop_ratio_max),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(config.flip),
            v2.ColorJitter(config.brightness, config.brightness, config.brightness),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], config.blur),
        ]
    )


class PhotoData(LightningDataModule):
    """Training photos with augmentation, validation photos as the service sees them."""

    def __init__(self, manifest: Manifest, config: TrainConfig) -> None:
        super().__init__()
        self.manifest, self.config = manifest, config

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, int]]:
        """Batches of `(u8[N,3,s,s], i64[N])`, s the fine-tuning size."""
        config, split = self.config, self.manifest.splits["train"]
        dataset = AugmentedDataset(
            split,
            config.model.input_size,
            augmentation(config.augment, config.finetune.input_size),
            config.seed,
        )
        slices = EpochSlices(
            len(split.paths), config.finetune.epochs_per_pass, config.loader.batch_size, config.seed
        )
        return self._loader(dataset, sampler=slices, drop_last=len(slices) >= config.loader.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, int]]:
        """Batches of `(u8[N,3,S,S], i64[N])`."""
        return self._loader(PhotoDataset(self.manifest.splits["validation"], self.config.model.input_size))

    def _loader(
        self,
        dataset: Dataset[tuple[torch.Tensor, int]],
        sampler: EpochSlices | None = None,
        *,
        drop_last: bool = False,
    ) -> DataLoader[tuple[torch.Tensor, int]]:
        loader = self.config.loader
        return DataLoader(
            dataset,
            batch_size=loader.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=loader.workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
        )


def _seed(*parts: int) -> int:
    """A 63-bit seed from numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
