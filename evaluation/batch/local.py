"""Scoring on this machine's cores, in parts: an interrupted run resumes at the first missing part."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from common.cores import pool_of_cores
from common.errors import UserError
from common.files import atomic_file, write_json
from common.progress import progress
from evaluation.batch.scorer import Scorer, outcomes

PART_ROWS: Final = 2000


class PartsError(UserError):
    """Parts of another run are in the way; the text names their folder and the next step."""


def score(scorer: Scorer, paths: list[str], out: Path, part_rows: int = PART_ROWS) -> Counter[str]:
    """Write `out`; return the number of photos per outcome: ok, or the error's code.

    Raises:
        PartsError: parts of another run lie next to `out`.
    """
    folder = out.with_name(out.name + ".parts")
    _agree(folder, scorer, paths, part_rows)
    parts = {folder / f"{start:012}.parquet": paths[start : start + part_rows]
             for start in range(0, len(paths), part_rows)}  # fmt: skip
    done = sum(len(photos) for part, photos in parts.items() if part.exists())
    with pool_of_cores() as pool, progress("score", len(paths), "photos", initial=done) as bar:
        for part, photos in parts.items():
            if part.exists():
                continue
            rows = []
            for row in pool.map(scorer.row, photos):
                rows.append(row)
                bar.update()
            with atomic_file(part) as partial:
                pq.write_table(scorer.table(rows), partial)
    found: Counter[str] = Counter()
    with atomic_file(out) as partial, pq.ParquetWriter(partial, scorer.schema) as writer:
        for table in map(pq.read_table, parts):
            writer.write_table(table.cast(scorer.schema))
            found += outcomes(table)
    shutil.rmtree(folder)
    return found


def _agree(folder: Path, scorer: Scorer, paths: list[str], part_rows: int) -> None:
    """Make the folder of parts, or check that it belongs to the same photos, artefact and part size."""
    plan = {
        "sha256": scorer.handler.artifact.sha256,
        "photos": hashlib.sha256("\n".join(paths).encode()).hexdigest(),
        "part_rows": part_rows,
    }
    note = folder / "plan.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != plan:
        raise PartsError(
            f"{folder} belongs to a run with other photos or another model. Delete it, or name another OUT."
        )
    write_json(note, plan)
