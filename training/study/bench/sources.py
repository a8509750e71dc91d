"""Three sources of batches, `u8[N,3,S,S]` and `i64[N]`: training's own, files, one batch in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from training.config import TrainConfig
from training.photos.decoded import DecodedPhotos
from training.photos.manifest import Split
from training.photos.module import PhotoData

LIMIT: Final = "a batch in memory (limit)"
Batches = Iterable[Any]


class _Files(Dataset[tuple[torch.Tensor, int]]):
    """Opens, crops and flips each photo on access."""

    def __init__(self, split: Split, size: int) -> None:
        self.split = split
        self.change = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.5, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.2, 0.2, 0.2),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.split.paths[index]) as image:
            changed: torch.Tensor = self.change(image.convert("RGB"))
        return changed, self.split.targets[index]


def sources(config: TrainConfig, photos: DecodedPhotos, steps: int) -> Mapping[str, Callable[[], Batches]]:
    """Functions that make at least `steps` batches, by name; training uses the first.

    Args:
        config: Its first pass sets the crop size.
        photos: Of the manifest to train on.
        steps: Per turn.
    """
    split, loader = photos.manifest.splits["train"], config.loader

    def decoded() -> Batches:
        return PhotoData(photos.manifest, photos, config).train_dataloader()

    def from_files() -> Batches:
        return DataLoader(
            _Files(split, config.finetune.input_sizes[0]),
            batch_size=loader.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=loader.workers,
        )

    ours = "decoded cache" if photos.caches("train") else "decoded when read"
    held = [next(iter(decoded()))] * steps

    def from_memory() -> Batches:
        return DataLoader(cast("Dataset[Any]", held), batch_size=None)

    return {
        f"{ours} (this project)": decoded,
        "files, as ImageFolder does": from_files,
        LIMIT: from_memory,
    }
