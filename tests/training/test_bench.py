"""The benchmark of training runs on any data and tells ratios within its own run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests import tiny
from training.study.bench import loops, run


@pytest.fixture
def made(place: Path) -> loops.Bench:
    """A tiny network on drawn pictures."""
    del place
    return loops.prepare(tiny.train_config(), 32)


def test_every_source_is_held_to_the_limit(made: loops.Bench):
    """Three sources, each with a rate, a share of the limit and a share of waiting."""
    figures = run.bench(made, turns=2, steps=1, keras=False)
    assert len(figures["sources"]) == 3
    for row in figures["sources"].values():
        assert row["photos_a_second"] > 0
        assert 0 <= row["waiting"] <= 1
    limit = list(figures["sources"].values())[-1]
    assert limit["of_the_limit"] == 1.0
    assert run.rates_as_markdown(figures).count("|") == 5 * 5


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_way_to_an_accuracy_is_told(made: loops.Bench):
    """Steps, seconds and every look at it; what is not reached is said to be so."""
    results = run.race(made, 1.01, 1, keras=False)
    steps = len(made.manifest.splits["train"].targets) // 8
    for way in results.values():
        assert not way["reached"]
        assert way["trace"][-1]["steps"] == steps
        assert 0 <= way["best"]["accuracy"] <= 1
        assert way["seconds"] > 0
    assert run.race_as_markdown(results, 1.01).count("not in") == 2


def test_a_look_at_the_accuracy_changes_no_training(place: Path):
    """Batch norm's statistics stay as they are before and after it, and the moving average is looked at."""
    del place
    config = tiny.train_config("--finetune.freeze_norm", "true")
    loop = loops.prepare(config, 32).ours(ema_decay=0.9)
    norm = next(m for m in loop.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before, weight = norm.running_mean.clone(), loop.network.head.weight.detach().clone()
    loop.turn(1)
    loop.accuracy()
    loop.turn(1)
    loop.rest()
    assert torch.equal(norm.running_mean, before)
    assert not torch.equal(loop.network.head.weight, weight)


def test_a_way_at_rest_takes_nothing_from_another():
    """Keras' process is stopped between its turns and goes on where it was."""
    script = 'import sys\nfor line in sys.stdin: print(\'{"seconds": 1.0, "waited": 0.0}\', flush=True)'
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        loop = loops.KerasLoop(process)
        for _ in range(2):
            assert loop.turn(3) == (1.0, 0.0)
            loop.rest()
            deadline = time.monotonic() + 10
            while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        process.kill()
