"""Scoring on this machine's cores, one photo per core."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from common.cores import pool_of_cores
from evaluation.batch import parts
from evaluation.batch.scorer import Scorer

_BATCHES_AHEAD: Final = 4
"""Enough photos for every core while the first batch waits for its last photo."""


def score(scorer: Scorer, paths: list[str], out: Path, part_rows: int = parts.PART_ROWS) -> Counter[str]:
    """Write `out`; return the number of photos per outcome: ok, or the error's code.

    Raises:
        PartsError: parts of another run lie next to `out`.
    """
    return parts.write(out, scorer, paths, partial(_answers, scorer), part_rows)


def _answers(scorer: Scorer, batches: Iterator[list[str]]) -> Generator[pa.Table, None, None]:
    ahead: deque[Iterator[dict[str, Any]]] = deque()
    with pool_of_cores() as pool:
        for photos in batches:
            ahead.append(pool.map(scorer.row, photos))
            if len(ahead) > _BATCHES_AHEAD:
                yield scorer.table(list(ahead.popleft()))
        while ahead:
            yield scorer.table(list(ahead.popleft()))
