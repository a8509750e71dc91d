"""Several processes in one training: which is first, and what the others wait for.

`torchrun` starts them all; without it Lightning's Fabric starts the others by running this command again. The
trainer then joins the running processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric import Fabric

from training.config import TrainerConfig


class Processes:
    """The processes of one training, one or more."""

    def __init__(self, config: TrainerConfig) -> None:
        self._threads = config.threads or max(1, torch.get_num_threads() // config.devices)
        self._fabric: Fabric | None = None
        if config.devices * config.nodes > 1:
            self._fabric = Fabric(
                accelerator=config.accelerator,
                devices=config.devices,
                num_nodes=config.nodes,
                strategy="ddp",
            )

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes files and tracks the run."""
        return self._fabric is None or self._fabric.is_global_zero

    def start(self) -> None:
        """Start or join the others; each takes its share of the cores."""
        if self._fabric:
            self._fabric.launch()
        torch.set_num_threads(self._threads)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the block in the first process while the others wait, however long; then in the others."""
        if self._fabric is None:
            yield
        else:
            with self._fabric.rank_zero_first():
                yield
