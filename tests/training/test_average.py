"""The moving average of the weights: as good in a short training as in a long one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule
from torch import nn

from training.fit.trainer import MovingAverage


class Weight(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def averaged(steps: int, share: float) -> float:
    """The average of a weight that is 0 at first and moves by 1 / `steps` in each step."""
    network = Weight()
    average = MovingAverage(share)
    trainer = SimpleNamespace(estimated_stepping_batches=steps, global_step=0)
    average.setup(trainer, network, "fit")
    average.on_train_start(trainer, network)
    for step in range(steps):
        with torch.no_grad():
            network.weight.fill_((step + 1) / steps)
        trainer.global_step = step + 1
        average.on_train_batch_end(trainer, network, None, None, step)
    average.on_train_end(trainer, network)
    return network.weight.item()


@pytest.mark.parametrize("steps", [10, 84, 3730])
def test_it_lags_by_its_share_of_the_steps(steps: int):
    """However few there are: with a fixed decay of 0.998 the weights of 84 steps went a tenth of the way."""
    assert averaged(steps, 0.134) == pytest.approx(1 - 0.134 + 1 / steps, abs=0.02)


def test_a_share_of_less_than_a_step_is_the_last_weight():
    """There is nothing to average."""
    assert averaged(4, 0.1) == pytest.approx(1)


def test_steps_before_the_first_do_not_count():
    """An average over nearly everything is the mean of the steps, without the weights before them."""
    assert averaged(10, 1) == pytest.approx(0.65, abs=0.05)
