"""Ctrl-C in a training: the batch it is at is finished, and the loaders' workers leave it to this process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch.callbacks import Callback


class Interrupt(Callback):
    """Ctrl-C ends the training after the batch it is at; a second one at once.

    An exception from the signal itself can be lost: Python drops what is raised while it forks a loader's
    worker.
    """

    def __init__(self) -> None:
        self._heard = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within the block SIGINT is this callback's, unless the process was started deaf to it."""
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:  # a job in the background stays deaf to it
            signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        except SystemExit as error:  # Lightning turns Ctrl-C into an exit, and ignores the next
            raise KeyboardInterrupt from error
        finally:
            signal.signal(signal.SIGINT, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard:
            signal.default_int_handler(number, frame)
        self._heard = True

    def on_train_batch_end(self, *batch: Any) -> None:
        """End a training that has heard it."""
        del batch
        if self._heard:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, *batch: Any) -> None:
        """The same while it validates."""
        self.on_train_batch_end(*batch)


def _be_a_worker() -> None:
    """Leave Ctrl-C to the process that forked this one, a loader's worker: it hears it, and ends this one.

    That it hung up in the middle of handing over a batch is then no fault that needs a trace.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = sys.excepthook

    def report_faults(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, EOFError | ConnectionError):
            report(kind, error, trace)

    sys.excepthook = report_faults


os.register_at_fork(after_in_child=_be_a_worker)
