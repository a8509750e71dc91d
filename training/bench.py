"""`python -m training bench`: photos a second in fine-tuning, beside the plain loop and the limit.

The same network takes the same steps on batches of three sources, in short turns: the decoded cache of this
project, files decoded and augmented with Pillow as torchvision's ImageFolder examples do, and one batch that
is in memory already, which is the limit. The share of the time that a step waits for its batch is told too.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from evaluation.machine import progress
from serving.preprocess import RESIZE_RULE
from training import files, paths
from training.cache import DecodedPhotos
from training.config import TrainConfig
from training.data import PhotoData, Split, read_manifest
from training.model import Classifier, build
from training.task import ClassificationTask, Optimisation

_OURS, _PLAIN, _LIMIT = (
    "decoded cache (this project)",
    "files, as ImageFolder does",
    "a batch in memory (limit)",
)
_OUT: Final = paths.WORK.parent / "bench-train.json"


class _PlainPhotos(Dataset[tuple[torch.Tensor, int]]):
    """Each photo opened, cropped and flipped when it is asked for."""

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


class Source:
    """Batches of one kind, and the time that was spent on getting and on using them."""

    def __init__(self, batches: Iterable[Any], step: Callable[[Any], None]) -> None:
        self.batches, self.step = iter(batches), step
        self.waited: list[float] = []
        self.took: list[float] = []

    def turn(self, steps: int) -> None:
        """So many steps."""
        began = time.perf_counter()
        waited = 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - asked
            self.step(batch)
        self.took.append(time.perf_counter() - began)
        self.waited.append(waited)


def bench(config: TrainConfig, size: int, turns: int, steps: int) -> dict[str, Any]:
    """Measure; write `build/bench-train.json`.

    Args:
        config: As for training; its network, batch size and workers.
        size: Side of the crops, in pixels.
        turns: Turns of each source, one after the other.
        steps: Optimiser steps of a turn.

    Raises:
        PipelineError: there is no manifest.
    """
    manifest = read_manifest()
    config = replace(config, finetune=replace(config.finetune, input_sizes=[size], epochs_per_pass=1))
    photos = DecodedPhotos(manifest, config.model.input_size)
    plain = DataLoader(
        _PlainPhotos(manifest.splits["train"], size),
        batch_size=config.loader.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.loader.workers,
    )
    ours = PhotoData(manifest, photos, config).train_dataloader()
    held = next(iter(ours))
    network = build(config.model, len(manifest.labels))
    step = _step(network, config, len(manifest.labels))
    for _ in range(2):
        step(held)
    figures: dict[str, Any] = {
        "photos": len(manifest.splits["train"].targets),
        "size": size,
        "batch_size": config.loader.batch_size,
        "threads": torch.get_num_threads(),
        "turns": turns,
        "steps": steps,
        "resize": RESIZE_RULE,
    }
    # Each source has the machine to itself while its loader's workers run.
    sources: dict[str, Iterable[Any]] = {_OURS: ours, _PLAIN: plain, _LIMIT: itertools.repeat(held)}
    rates: dict[str, list[float]] = {name: [] for name in sources}
    waits: dict[str, list[float]] = {name: [] for name in sources}
    with progress("bench-train", turns * len(sources), "turns") as bar:
        for _ in range(turns):
            for name, batches in sources.items():
                source = Source(batches, step)
                source.turn(2)  # the workers have started and are ahead
                source.turn(steps)
                rates[name].append(steps * config.loader.batch_size / source.took[-1])
                waits[name].append(source.waited[-1] / source.took[-1])
                del source
                bar.update()
    figures["sources"] = {
        name: {
            "photos_a_second": statistics.median(rates[name]),
            "of_the_limit": statistics.median(
                rate / limit for rate, limit in zip(rates[name], rates[_LIMIT], strict=True)
            ),
            "waiting": statistics.median(waits[name]),
        }
        for name in sources
    }
    files.write_json(_OUT, figures)
    return figures


def _step(network: Classifier, config: TrainConfig, classes: int) -> Callable[[Any], None]:
    """One optimiser step of fine-tuning."""
    finetune = config.finetune
    task = ClassificationTask(
        network.to(memory_format=torch.channels_last),
        classes,
        "finetune",
        Optimisation(
            finetune.learning_rate, finetune.weight_decay, finetune.label_smoothing, finetune.freeze_norm
        ),
    )
    optimizer = torch.optim.AdamW(task.parameters(), lr=finetune.learning_rate)
    task.train()
    task.on_train_epoch_start()

    def step(batch: Any) -> None:
        inputs, targets = batch
        loss = torch.nn.functional.cross_entropy(task(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def as_markdown(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        "| batches from | photos/s | of the limit | waiting for batches |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['photos_a_second']:.1f} | {row['of_the_limit']:.0%} | {row['waiting']:.1%} |"
        for name, row in figures["sources"].items()
    ]
    about = (
        f"{figures['size']} pixels, batches of {figures['batch_size']}, {figures['threads']} threads; "
        f"medians of {figures['turns']} turns of {figures['steps']} steps, ratios within a turn."
    )
    return "\n".join([*lines, "", about])
