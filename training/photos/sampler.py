"""The photos of an epoch and their order: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSlices(Sampler[tuple[int, int]]):
    """Splits each pass over `n` photos into epochs: epoch e takes slice `e % k` of pass `e // k`.

    Epochs shorter than a pass validate and checkpoint often enough on slow machines. Where a pass has fewer
    batches than epochs, each epoch has one, and the pass begins again from its first photo. Each of several
    processes takes its part of every batch, so together they see the batches that one process alone would.
    Lightning calls `set_epoch`.
    """

    def __init__(
        self, n: int, epochs_per_pass: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        """`batch_size` counts all `world` processes together and is a multiple of their number."""
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
        chosen = np.take(order, range(start, start + self.per_epoch), mode="wrap")
        for position, index in enumerate(chosen):
            if position % self.batch_size // share == self.rank:
                yield self.epoch, int(index)
