"""Two processes train the same network as one, started by Lightning or by torchrun."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from tests.tiny import ROOT, TRAIN, train_config
from training.photos.sampler import EpochSlices
from training.place import Place

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ONE = [
    *TRAIN,
    *("--model.dropout", "0", "--finetune.freeze_norm", "true", "--finetune.learning_rate", "0.001"),
]
TWO = [*ONE, "--trainer.devices", "2"]


@pytest.mark.parametrize(("n", "batch_size"), [(100, 8), (37, 6), (8, 8)])
def test_processes_share_each_batch(n: int, batch_size: int):
    """Together they see the photos of a single process, batch by batch."""
    alone = EpochSlices(n, 2, batch_size, seed=3)
    parts = [EpochSlices(n, 2, batch_size, seed=3, rank=rank, world=2) for rank in range(2)]
    for epoch in range(4):
        for sampler in (alone, *parts):
            sampler.set_epoch(epoch)
        whole = np.array(list(alone)).reshape(-1, batch_size, 2)
        halves = [np.array(list(part)).reshape(-1, batch_size // 2, 2) for part in parts]
        assert np.array_equal(np.concatenate(halves, axis=1), whole)
        assert [len(part) for part in parts] == [len(alone) // 2] * 2


@pytest.mark.distributed
@pytest.mark.timeout(400)
def test_two_processes_train_what_one_does(place: Place, environment: Callable[..., dict[str, str]]):
    """The same weights and figures up to rounding, and one MLflow run per training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    states, figures = [], []
    for command in (
        ["-m", "training", "fit", *ONE],
        ["-m", "training", "fit", *TWO],
        [*torchrun, "-m", "training", "fit", *TWO],
    ):
        env = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        done = subprocess.run(
            [sys.executable, *command], env=env, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        states.append(torch.load(place.checkpoint, weights_only=True)["state_dict"])
        run = json.loads(place.run.read_text())["mlflow_run_id"]
        figures.append(MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}").get_run(run).data.metrics)
        assert not list(place.work.iterdir())
    for state, found in zip(states[1:], figures[1:], strict=True):
        for name, tensor in states[0].items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
        for name in (
            "finetune_val_loss",
            "finetune_train_loss",
            "validation_log_loss",
            "validation_accuracy",
        ):
            assert found[name] == pytest.approx(figures[0][name], abs=1e-3), name
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    assert (
        len(
            client.search_runs(
                [client.get_experiment_by_name(train_config().tracking.experiment).experiment_id]
            )
        )
        == 3
    )
