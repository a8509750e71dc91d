"""Manifest in, batches out: `u8[N,3,S,S]` and `i64[N]` class numbers.

Photos come decoded (see `training.photos.decoded`). Order and augmentation of a photo depend on the seed, the
epoch and the photo alone, so a resumed run goes on exactly as an unbroken one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torchvision.transforms import v2

from common.errors import PipelineError
from common.files import sha256
from common.labels import REVIEWED, LabelsError, correct, read_reviewed
from training import place
from training.config import AugmentConfig, TrainConfig


@dataclass(frozen=True, slots=True)
class Split:
    """The photos of one split, in the manifest's order."""

    paths: list[Path]
    targets: list[int]
    """Class numbers, indices into `Manifest.labels`."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `training.photos.prepare` wrote."""

    labels: list[str]
    splits: dict[str, Split]
    sha256: str
    """Of the manifest file and the reviewed labels: names the exact photos, labels and split."""


def read_manifest(path: Path = place.MANIFEST, raw: Path = place.RAW) -> Manifest:
    """Read the manifest; reviewed labels (`common.labels`) count in all splits but test.

    The test split keeps its labels as they were found, so that figures on it compare with others'.

    Raises:
        PipelineError: there is no manifest, or the reviewed labels cannot be used.
    """
    if not path.exists():
        raise PipelineError(f"There is no manifest at {path}. Prepare the photos first: make data.")
    table = pd.read_csv(path)
    labels = sorted(table["label"].unique())
    test = table["split"] == "test"
    try:
        reviewed = read_reviewed()
        table = pd.concat([correct(table[~test], reviewed), table[test]])
    except LabelsError as error:
        raise PipelineError(str(error)) from error
    number = {label: index for index, label in enumerate(labels)}
    splits = {
        str(name): Split([raw / p for p in rows["path"]], [number[label] for label in rows["label"]])
        for name, rows in table.groupby("split")
    }
    digest = sha256(path)
    if len(reviewed):
        digest = hashlib.sha256((digest + sha256(REVIEWED)).encode()).hexdigest()
    return Manifest(labels, splits, digest)


class PhotoDataset(Dataset[tuple[torch.Tensor, int]]):
    """Photos for evaluation: `(u8[3,S,S], class number)` by index."""

    def __init__(self, images: npt.NDArray[np.uint8], targets: list[int]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(self.images[index]), self.targets[index]


Photo = tuple[torch.Tensor, int] | tuple[torch.Tensor, int, npt.NDArray[np.float32]]
"""Pixels, class number and, with a teacher, its log probabilities `f32[K]`."""


class AugmentedDataset(Dataset[Photo]):
    """Photos for training, addressed by `(epoch, index)`: the pair seeds the augmentation."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        targets: list[int],
        augment: list[v2.Transform],
        epochs_per_pass: int,
        seed: int,
        teacher: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """`images` is `u8[N,3,S,S]`, `teacher` is `f32[N,K]`; `augment` has one transform a pass."""
        self.images, self.targets, self.augment = images, targets, augment
        self.epochs_per_pass, self.seed, self.teacher = epochs_per_pass, seed, teacher

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: tuple[int, int]) -> Photo:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, epoch, index))
            image = self.augment[epoch // self.epochs_per_pass](torch.tensor(self.images[index]))
        if self.teacher is None:
            return image, self.targets[index]
        return image, self.targets[index], self.teacher[index]


class EpochShuffle(Sampler[int]):
    """All `n` rows in an order that depends on seed and epoch alone. Lightning calls `set_epoch`."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist())


class EpochSlices(Sampler[tuple[int, int]]):
    """Cut each pass over `n` photos into epochs: epoch e takes slice `e % k` of pass `e // k`.

    Epochs shorter than a pass give validation, checkpoints and resuming often enough on slow machines.
    Of several processes each takes its part of every batch, so that together they take the batches that
    one alone would. Lightning calls `set_epoch`.
    """

    def __init__(
        self, n: int, epochs_per_pass: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        """`batch_size` is that of all `world` processes together, and a multiple of their number."""
        self.n, self.epochs_per_pass, self.seed = n, epochs_per_pass, seed
        self.batch_size, self.rank, self.world = min(batch_size, n), rank, world
        batches = max(1, n // batch_size)
        self.per_epoch = max(1, batches // epochs_per_pass) * self.batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return self.per_epoch // self.world

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        whole, part = divmod(self.epoch, self.epochs_per_pass)
        order = np.random.default_rng((self.seed, whole)).permutation(self.n)
        start, share = part * self.per_epoch, self.batch_size // self.world
        for position, index in enumerate(order[start : start + self.per_epoch]):
            if position % self.batch_size // share == self.rank:
                yield self.epoch, int(index)


def augmentation(config: AugmentConfig, size: int) -> v2.Transform:
    """Random changes on `u8[3,S,S]`, result `u8[3,size,size]`: framing, light, and a photo's quality."""
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
            v2.RandomApply([v2.ColorJitter(brightness=(0.3, 1.5), contrast=(0.1, 0.7))], config.light),
            v2.RandomGrayscale(config.grey),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], config.blur),
            v2.RandomApply([_Thumbnail(size)], config.thumbnail),
            v2.RandomApply([_Noise()], config.noise),
            v2.RandomApply([_Compressed()], config.jpeg),
        ]
    )


class _Thumbnail(torch.nn.Module):
    """As a picture that was small, an eighth to all of each side, and was enlarged.

    The sides are drawn apart: a picture that lost one of them alone looks moved, one that lost both
    unfocused, at a tenth of what a blurring kernel of five pixels costs.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`u8[3,s,s]` to `u8[3,s,s]`."""
        small = torch.randint(max(1, self.size // 8), self.size, (2,)).tolist()
        thumbnail = v2.functional.resize(image, small, antialias=True)
        enlarged: torch.Tensor = v2.functional.resize(thumbnail, [self.size, self.size], antialias=True)
        return enlarged


class _Noise(torch.nn.Module):
    """As a sensor in little light: Gaussian noise of 0 to 0.3 of the range, one strength a photo."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`u8[3,s,s]` to `u8[3,s,s]`."""
        deviation = float(torch.empty(()).uniform_(0, 0.3)) * 255
        return (image + deviation * torch.randn(image.shape)).round_().clamp_(0, 255).to(torch.uint8)


class _Compressed(torch.nn.Module):
    """As a JPEG of quality 8 to 89 (torchvision's own transform is deprecated since 0.29)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`u8[3,s,s]` to `u8[3,s,s]`."""
        encoded = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(
            encoded, "JPEG", quality=int(torch.randint(8, 90, ()))
        )
        return torch.from_numpy(np.array(Image.open(encoded))).permute(2, 0, 1)


class PhotoData(LightningDataModule):
    """Training photos with augmentation, validation photos as the service sees them."""

    def __init__(
        self,
        manifest: Manifest,
        photos: Mapping[str, npt.NDArray[np.uint8]],
        config: TrainConfig,
        teacher: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """`photos` holds `u8[N,3,S,S]` of each split, `teacher` log probabilities `f32[N,K]` of training."""
        super().__init__()
        self.manifest, self.photos, self.config, self.teacher = manifest, photos, config, teacher

    def train_dataloader(self) -> DataLoader[Photo]:
        """Batches of `(u8[N,3,s,s], i64[N])` and, with a teacher, `f32[N,K]`; s is the size of the pass.

        Raises:
            PipelineError: several processes cannot share the batches equally.
        """
        config, targets = self.config, self.manifest.splits["train"].targets
        rank, world = self._place()
        batch_size = config.loader.batch_size
        if batch_size % world or (world > 1 and len(targets) < batch_size):
            raise PipelineError(
                f"{world} processes cannot share batches of {batch_size} photos out of {len(targets)}: make "
                "loader.batch_size a multiple of the processes, and no larger than the training split."
            )
        epochs = config.finetune.epochs_per_pass
        augment = [augmentation(config.augment, size) for size in config.finetune.input_sizes]
        dataset = AugmentedDataset(self.photos["train"], targets, augment, epochs, config.seed, self.teacher)
        slices = EpochSlices(len(targets), epochs, batch_size, config.seed, rank, world)
        return self._loader(dataset, sampler=slices, drop_last=len(targets) >= batch_size)

    def val_dataloader(self) -> DataLoader[Photo]:
        """Batches of `(u8[N,3,S,S], i64[N])`; each process takes every photo of its own."""
        rank, world = self._place()
        photos = PhotoDataset(self.photos["validation"], self.manifest.splits["validation"].targets)
        return self._loader(Subset(photos, range(rank, len(photos), world)))

    def _place(self) -> tuple[int, int]:
        """Number of this process, and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(
        self,
        dataset: Dataset[Any],
        sampler: EpochSlices | None = None,
        *,
        drop_last: bool = False,
    ) -> DataLoader[Photo]:
        loader = self.config.loader
        return DataLoader(
            dataset,
            batch_size=loader.batch_size // self._place()[1],
            sampler=sampler,
            drop_last=drop_last,
            num_workers=loader.workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
        )


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
