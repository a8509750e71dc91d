"""The same scoring on a Ray cluster, or on processes of this machine if there is none."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from common.files import atomic_file
from evaluation.batch.scorer import Scorer, outcomes

_BATCH: Final = 64


class _Worker:
    """One process of the cluster: loads the artefact once, then predicts batches."""

    def __init__(self, model: str) -> None:
        self._scorer = Scorer(Path(model))

    def __call__(self, batch: dict[str, npt.NDArray[np.generic]]) -> pa.Table:
        table = self._scorer.table([self._scorer.row(str(path)) for path in batch["path"]])
        return table.append_column("number", pa.array(batch["number"]))


def score(model: Path, paths: list[str], out: Path, workers: int) -> Counter[str]:
    """Like `evaluation.batch.local.score`, on `workers` single-core processes; RAY_ADDRESS names a cluster.

    Ray repeats what a lost worker had in progress; an interrupted run starts over. All machines must
    see the photos, the artefact and the output under the same paths.
    """
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    parts = out.with_name(out.name + ".ray")
    shutil.rmtree(parts, ignore_errors=True)
    try:
        rows = ray.data.from_items(
            [{"number": number, "path": str(Path(path).absolute())} for number, path in enumerate(paths)]
        )
        rows.map_batches(
            _Worker,
            fn_constructor_args=(str(model.absolute()),),
            batch_size=_BATCH,
            concurrency=workers,
            num_cpus=1,
        ).write_parquet(str(parts.absolute()))
        table = pa.concat_tables(map(pq.read_table, sorted(parts.glob("*.parquet")))).sort_by("number")
        schema = Scorer(model).schema
        table = table.drop_columns("number").set_column(0, schema.field("path"), pa.array(paths, pa.string()))
        table = table.cast(schema)
        with atomic_file(out) as partial:
            pq.write_table(table, partial)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
        ray.shutdown()
    return outcomes(table)
