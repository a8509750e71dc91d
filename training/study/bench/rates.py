"""Throughput of the real trainer with each source of batches, in turns; writes `rates.json`."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from lightning.pytorch.callbacks import Callback

from common import files
from common.progress import progress
from serving.contract.preprocess import RESIZE_RULE
from training.config import TrainConfig
from training.fit.trainer import new_trainer, quiet_lightning
from training.network.build import build, freeze
from training.network.folding import folded
from training.network.task import FinetuneTask
from training.photos.decoded import DecodedPhotos
from training.photos.manifest import read_manifest
from training.place import Place
from training.study.bench.sources import LIMIT, Batches, sources

_WARM_UP: Final = 2  # untimed steps of a turn, until the workers have started and are ahead


@dataclass(frozen=True, slots=True)
class Source:
    """Medians over the turns of one source of batches."""

    photos_a_second: float
    of_the_limit: float
    """Ratio to the limit's photos per second, within a turn."""
    waiting: float
    """Share of the time that steps waited for a batch."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The measured rates and their conditions."""

    photos: int
    size: int
    """Side of the crops, in pixels."""
    batch_size: int
    threads: int
    turns: int
    steps: int
    resize: str
    sources: dict[str, Source]


class StepTimer(Callback):
    """Times the steps after the warm-up, and how much of it is waiting for batches."""

    def __init__(self) -> None:
        self._began = self._ended = self.waited = 0.0
        self._steps = 0

    @property
    def seconds(self) -> float:
        """From the end of the warm-up to the end of the last step."""
        return self._ended - self._began

    def on_train_batch_start(self, *step: Any) -> None:
        """Add the wait for this batch."""
        del step
        if self._steps >= _WARM_UP:
            self.waited += time.perf_counter() - self._ended

    def on_train_batch_end(self, *step: Any) -> None:
        """Note the end of the step."""
        del step
        self._steps += 1
        self._ended = time.perf_counter()
        if self._steps == _WARM_UP:
            self._began = self._ended


def measure(config: TrainConfig, place: Place, size: int, turns: int, steps: int) -> Rates:
    """Measure each source in turn, `turns` times; write and return the rates.

    Args:
        config: The recipe.
        place: Where the manifest is.
        size: Side of the crops, in pixels.
        turns: Turns per source.
        steps: Optimiser steps per turn.

    Raises:
        PipelineError: there is no manifest.
    """
    quiet_lightning()
    passes = [size] * (steps + _WARM_UP)  # enough, however few photos there are
    config = replace(config, finetune=replace(config.finetune, input_sizes=passes, epochs_per_pass=1))
    limit_gb = config.loader.cache_limit
    photos = DecodedPhotos(read_manifest(place), config.model.input_size, place.decoded, limit_gb)
    network = build(config.model, len(photos.manifest.labels)).to(memory_format=torch.channels_last)
    freeze(network, config.model, config.finetune.frozen_groups)
    task = FinetuneTask(network, torch.ones(len(photos.manifest.labels)), config.finetune)
    found = sources(config, photos, steps + _WARM_UP)
    timed: dict[str, list[StepTimer]] = {name: [] for name in found}
    with (
        folded(network, size, frozen=config.finetune.freeze_norm),
        progress("bench-train", turns * len(found), "turns") as bar,
    ):
        for _ in range(turns):
            for name, batches in found.items():
                timed[name].append(_turn(config, task, batches(), steps))
                bar.update()
    rates = Rates(
        photos=len(photos.manifest.splits["train"].targets),
        size=size,
        batch_size=config.loader.batch_size,
        threads=torch.get_num_threads(),
        turns=turns,
        steps=steps,
        resize=RESIZE_RULE,
        sources={
            name: Source(
                statistics.median(steps * config.loader.batch_size / turn.seconds for turn in row),
                statistics.median(
                    limit.seconds / turn.seconds for turn, limit in zip(row, timed[LIMIT], strict=True)
                ),
                statistics.median(turn.waited / turn.seconds for turn in row),
            )
            for name, row in timed.items()
        },
    )
    files.write_json(place.bench / "rates.json", rates)
    return rates


def _turn(config: TrainConfig, task: FinetuneTask, batches: Batches, steps: int) -> StepTimer:
    """Train for one turn as in a real run, without validation and checkpoints."""
    trainer = new_trainer(
        config,
        [timer := StepTimer()],
        devices=1,
        max_steps=steps + _WARM_UP,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(task, train_dataloaders=batches, val_dataloaders=[])
    return timer


def as_markdown(rates: Rates) -> str:
    """The rates as a table."""
    lines = [
        "| batches from | photos/s | of the limit | waiting for batches |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row.photos_a_second:.1f} | {row.of_the_limit:.0%} | {row.waiting:.1%} |"
        for name, row in rates.sources.items()
    ]
    about = (
        f"{rates.size} pixels, batches of {rates.batch_size}, {rates.threads} threads; "
        f"medians of {rates.turns} turns of {rates.steps} steps, ratios within a turn."
    )
    return "\n".join([*lines, "", about])
