"""Ctrl-C during training: the current batch is finished, and loader workers ignore the signal."""

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
    """Ends training on Ctrl-C after the current batch; on a second Ctrl-C at once.

    Raising in the signal handler is not enough: Python drops an exception raised while it forks a loader's
    worker.
    """

    def __init__(self) -> None:
        self._received = False

    @contextmanager
    def handling_sigint(self) -> Iterator[None]:
        """Handle SIGINT within the block, unless the process was started ignoring it."""
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:  # a background job keeps ignoring it
            signal.signal(signal.SIGINT, self._on_sigint)
        try:
            yield
        except SystemExit as error:  # Lightning turns Ctrl-C into SystemExit and ignores the next one
            raise KeyboardInterrupt from error
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            signal.default_int_handler(number, frame)
        self._received = True

    def on_train_batch_end(self, *batch: Any) -> None:
        """End training if SIGINT has arrived."""
        del batch
        if self._received:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, *batch: Any) -> None:
        """Likewise during validation."""
        self.on_train_batch_end(*batch)


def _ignore_sigint_in_worker() -> None:
    """Make a forked loader worker ignore Ctrl-C: its parent receives the signal and ends it.

    A parent that ends while a batch is handed over is then no error that needs a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = sys.excepthook

    def report_faults(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, EOFError | ConnectionError):
            report(kind, error, trace)

    sys.excepthook = report_faults


os.register_at_fork(after_in_child=_ignore_sigint_in_worker)
