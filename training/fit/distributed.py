"""Several processes in one training: which is first, and what the others wait for.

`torchrun` starts them all; without it Lightning's Fabric starts the others by running this command again. The
trainer then joins the running processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from lightning.fabric import Fabric

from common.errors import PipelineError
from training.config import TrainerConfig

_STARTERS: Final = {"torchrun": "WORLD_SIZE", "SLURM's srun": "SLURM_STEP_NUM_TASKS"}
"""Where each program that starts processes says how many; torchrun's word counts where srun starts it."""


class Processes:
    """The processes of one training, one or more."""

    def __init__(self, config: TrainerConfig) -> None:
        """Find the processes that are to train together.

        Raises:
            PipelineError: another number was started than is configured.
        """
        wanted = config.devices * config.nodes
        starter = next((name for name, variable in _STARTERS.items() if variable in os.environ), "")
        started = int(os.environ[_STARTERS[starter]]) if starter else 1
        if started not in (1, wanted):
            raise PipelineError(
                f"{starter} started {started} processes, but trainer.devices={config.devices} and "
                f"trainer.nodes={config.nodes} make {wanted}: each would train alone and overwrite the "
                "others' files. Set the two to what is started, or start as many."
            )
        self._threads = config.threads or max(1, torch.get_num_threads() // config.devices)
        self._fabric: Fabric | None = None
        if wanted > 1:
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
