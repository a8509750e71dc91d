"""Answers in, one Parquet file out, by way of parts on this machine's disk. `local` and `ray` both call it.

At most one part is in memory, however many photos there are. An interrupted run resumes at the first missing
part, with either engine.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import atomic_file, write_json
from common.progress import progress
from evaluation.batch.scorer import Scorer, outcomes

PART_ROWS: Final = 2000
_BATCH_ROWS: Final = 64

Engine: TypeAlias = Callable[[Iterator[list[str]]], Generator[pa.Table, None, None]]
"""Takes batches of paths, and yields one table for each, in order; it may take a few batches ahead."""


class PartsError(UserError):
    """Parts of another run are in the way; the text names their folder and the next step."""


def write(
    out: Path, scorer: Scorer, paths: list[str], engine: Engine, part_rows: int = PART_ROWS
) -> Counter[str]:
    """Write `out`; return the number of photos per outcome: ok, or the error's code.

    Args:
        out: Appears when it is complete; until then its parts lie in the folder `<out>.parts`.
        scorer: Has the schema of the rows, and the artefact whose parts may be used again.
        paths: One photo for each row, in order.
        engine: Answers the photos of the parts that are missing.
        part_rows: Rows of a part.

    Raises:
        PartsError: parts of another run lie next to `out`.
    """
    folder = out.with_name(out.name + ".parts")
    _agree(folder, scorer, paths, part_rows)
    parts = {folder / f"{start:012}.parquet": range(start, min(start + part_rows, len(paths)))
             for start in range(0, len(paths), part_rows)}  # fmt: skip
    missing = {part: rows for part, rows in parts.items() if not part.exists()}
    done = len(paths) - sum(map(len, missing.values()))
    photos = (paths[batch.start : batch.stop] for rows in missing.values() for batch in _batches(rows))
    with closing(engine(photos)) as answers, progress("score", len(paths), "photos", initial=done) as bar:
        for part, rows in missing.items():
            tables = []
            for _ in _batches(rows):
                tables.append(next(answers))
                bar.update(tables[-1].num_rows)
            with atomic_file(part) as partial:
                pq.write_table(pa.concat_tables(tables), partial)
    found: Counter[str] = Counter()
    with atomic_file(out) as partial, pq.ParquetWriter(partial, scorer.schema) as writer:
        for table in map(pq.read_table, parts):
            writer.write_table(table.cast(scorer.schema))
            found += outcomes(table)
    shutil.rmtree(folder)
    return found


def _batches(rows: range) -> list[range]:
    """The rows of a part in batches: no batch reaches into the next part."""
    return [rows[start : start + _BATCH_ROWS] for start in range(0, len(rows), _BATCH_ROWS)]


def _agree(folder: Path, scorer: Scorer, paths: list[str], part_rows: int) -> None:
    """Make the folder of parts, or check that it belongs to the same photos, artefact and part size."""
    photos = hashlib.sha256()
    for path in paths:
        photos.update(f"{path}\n".encode())
    plan = {"sha256": scorer.handler.artifact.sha256, "photos": photos.hexdigest(), "part_rows": part_rows}
    note = folder / "plan.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != plan:
        raise PartsError(
            f"{folder} belongs to a run with other photos or another model. Delete it, or name another OUT."
        )
    write_json(note, plan)
