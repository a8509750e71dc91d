"""The same scoring on a Ray cluster, or on processes of this machine if there is none."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import ray

from evaluation.batch import parts
from evaluation.batch.scorer import Scorer

_BATCHES_AHEAD: Final = 8
"""Per worker: how far the others get ahead of a slow batch, and all that the cluster holds of the answers."""


def score(
    scorer: Scorer, paths: list[str], out: Path, model: Path, workers: int, part_rows: int = parts.PART_ROWS
) -> Counter[str]:
    """Like `evaluation.batch.local.score`, on `workers` single-core processes; RAY_ADDRESS names a cluster.

    Ray repeats what a lost worker had in progress. All machines must see the photos and the artefact under
    the same paths; only this one needs to see `out`.

    Raises:
        PartsError: parts of another run lie next to `out`.
    """
    return parts.write(out, scorer, paths, partial(_answers, model.absolute(), workers), part_rows)


def _answers(model: Path, workers: int, batches: Iterator[list[str]]) -> Generator[pa.Table, None, None]:
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    try:
        answer = ray.remote(num_cpus=1)(_answer)
        ahead: deque[Any] = deque()
        running: list[Any] = []
        for photos in batches:
            ahead.append(answer.remote(model, Path.cwd(), photos))
            running.append(ahead[-1])
            if len(running) == workers:
                _, running = ray.wait(running)
            while ahead and (ahead[0] not in running or len(ahead) > _BATCHES_AHEAD * workers):
                yield ray.get(ahead.popleft())
        while ahead:
            yield ray.get(ahead.popleft())
    finally:
        ray.shutdown()


def _answer(model: Path, folder: Path, photos: list[str]) -> pa.Table:
    """Runs on the cluster: the rows of a batch, whose paths are relative to the folder or absolute."""
    scorer = _load(model)
    return scorer.table([{**scorer.row(str(folder / photo)), "path": photo} for photo in photos])


@cache
def _load(model: Path) -> Scorer:
    """Once in each process of the cluster."""
    return Scorer(model)
