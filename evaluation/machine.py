"""The machine at hand: its cores, its terminal, and work spread over both."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from tqdm import tqdm

T = TypeVar("T")
U = TypeVar("U")

_LOG_SECONDS = 10.0
_COMPILING_CALLS = 3


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(title: str, total: int | None, unit: str, **options: Any) -> tqdm[Any]:
    """Rate and time left: a bar on a terminal, a line every ten seconds in a file or a pipe."""
    interval = 0.1 if sys.stderr.isatty() else _LOG_SECONDS
    return tqdm(
        desc=title, total=total, unit=f" {unit}", mininterval=interval, maxinterval=interval, **options
    )


@contextmanager
def one_photo_a_core() -> Iterator[ThreadPoolExecutor]:
    """A pool with a thread a core, in which a tensor operation takes one thread.

    One photo a core beats all cores on one photo.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def map_on_cores(function: Callable[[T], U], items: Sequence[T], title: str) -> list[U]:
    """`function` of each photo, in order, one photo a core at a time.

    The first photos are computed one after the other: TorchScript compiles on the first calls, and which
    photos the finished graph computes must not be a matter of timing.
    """
    results = []
    with one_photo_a_core() as pool, progress(title, len(items), "photos") as bar:
        for part, run in ((items[:_COMPILING_CALLS], map), (items[_COMPILING_CALLS:], pool.map)):
            for result in run(function, part):
                results.append(result)
                bar.update()
    return results
