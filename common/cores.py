"""Work spread over the cores of this machine, one item per core.

Every command that reads many photos uses this; it imports no torch. Code that runs tensors passes
`serving.runtime.torchscript.one_thread` as `initializer`: one photo per core is faster than all cores on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from common.processor import cores
from common.progress import progress

T = TypeVar("T")
U = TypeVar("U")

_COMPILING_CALLS: Final = 3


@contextmanager
def pool_of_cores(initializer: Callable[[], None] | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool with one thread per core; work that has not started when the block ends is cancelled."""
    pool = ThreadPoolExecutor(cores(), initializer=initializer)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def map_on_cores(
    function: Callable[[T], U],
    items: Sequence[T],
    title: str | None,
    *,
    initializer: Callable[[], None] | None = None,
) -> list[U]:
    """Apply `function` to each item, one item per core at a time; return the results in order.

    The first items are computed one after another: TorchScript compiles during the first calls, and timing
    must not decide which items the finished graph computes.

    Args:
        function: Called in the threads of the pool.
        items: Its arguments.
        title: Shown with the progress; None shows nothing.
        initializer: Called once in each thread, before its first item.
    """
    first, rest = items[:_COMPILING_CALLS], items[_COMPILING_CALLS:]
    results = []
    with (
        pool_of_cores(initializer) as pool,
        progress(title, len(items), "photos", disable=title is None) as bar,
    ):
        for item in first:
            results.append(pool.submit(function, item).result())
            bar.update()
        for result in pool.map(function, rest):
            results.append(result)
            bar.update()
    return results
