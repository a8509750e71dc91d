"""Ctrl-C ends training after the current batch, and leaves nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from tests.tiny import ROOT, SIDE, TRAIN, train_config
from tests.training.marks import LIBRARIES_WARNINGS_IGNORED
from tests.training.rows import RowData
from training.fit.trainer import finetune
from training.network.task import FinetuneTask
from training.place import Place

pytestmark = LIBRARIES_WARNINGS_IGNORED


def train_rows(work: Path, rows: Dataset[Any], workers: int = 0) -> None:
    """Up to 50 epochs of `rows`, pairs of 4 numbers and a class."""
    config = train_config(
        *("--finetune.input_sizes", str(50 * [1]), "--finetune.epochs_per_pass", "1"),
        *("--finetune.ema_share", "0"),
    )
    task = FinetuneTask(torch.nn.Linear(4, 2), torch.ones(2), config.finetune)
    data = RowData(rows, ROWS, 4, workers)
    finetune(config, task, data, None, work)


ROWS = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))


def test_ctrl_c_works_while_a_worker_is_forked(tmp_path: Path):
    """Python drops what a signal handler raises there; training must end nevertheless."""
    forks = iter(range(10_000))
    listening = [True]

    def press() -> None:
        if listening and next(forks) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    os.register_at_fork(after_in_parent=press)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_rows(tmp_path, ROWS, workers=1)
    finally:
        listening.clear()
    assert next(forks) < 10, "training continued for too long"
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "last.ckpt").exists()


class Pressing(Dataset[Any]):
    """Rows that raise `presses` signals with the third row of the second epoch."""

    def __init__(self, presses: int) -> None:
        self._presses, self.asked = presses, 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        if self.asked == 11:  # an epoch asks for 8
            for _ in range(self._presses):
                signal.raise_signal(signal.SIGINT)
        return ROWS[index]


@pytest.mark.parametrize(("presses", "asked"), [(1, 12), (2, 11)])
def test_one_ctrl_c_ends_after_the_batch_and_two_at_once(tmp_path: Path, presses: int, asked: int):
    """No batch is interrupted unless a person insists."""
    rows = Pressing(presses)
    with pytest.raises(KeyboardInterrupt):
        train_rows(tmp_path, rows)
    assert rows.asked == asked


def test_training_in_the_background_ignores_ctrl_c(tmp_path: Path):
    """A script started it that way; the Ctrl-C that ends the script must not end training."""
    rows = Pressing(2)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train_rows(tmp_path, rows)
    finally:
        signal.signal(signal.SIGINT, before)
    assert rows.asked == 50 * 8


@pytest.mark.slow
def test_a_real_ctrl_c_in_training_is_reported_and_progress_kept(
    place: Place, environment: Callable[..., dict[str, str]]
):
    """SIGINT to the process group: exit 130, no traceback, no checkpoint under its final name."""
    long = ["--finetune.input_sizes", str(500 * [SIDE]), "--loader.workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "fit", *TRAIN, *long],
        env=environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:  # the bar is redrawn after an epoch, whose checkpoint is then written
        if "val_loss" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted: no partial file was left in place" in rest
    assert "Traceback" not in rest
    assert not place.checkpoint.exists()
    assert list(place.work.glob("*/finetune/last.ckpt"))


def test_a_worker_whose_parent_is_gone_reports_nothing(environment: Callable[..., dict[str, str]]):
    """As after Ctrl-C in the middle of a batch; its own errors are reported."""
    code = (
        "import os, sys, training.fit.interrupts\n"
        "worker = os.fork()\n"
        "if not worker:\n"
        "    for error in (EOFError('hung up'), ConnectionResetError('hung up'), ValueError('a fault')):\n"
        "        sys.excepthook(type(error), error, None)\n"
        "    os._exit(0)\n"
        "os.waitpid(worker, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ValueError: a fault" in done.stderr
    assert "hung up" not in done.stderr
