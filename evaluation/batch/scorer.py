"""`python -m evaluation score IN OUT.parquet`: answers for a folder or a list of photos, however many.

One row a photo, in order: path, prediction, probability of each label, uncertain, unfamiliar, or the error of
a file that cannot be answered. Rows are written in parts beside OUT, so that a run that was killed goes on
where it was; the parts become OUT at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.cores import pool_of_cores
from common.errors import UserError
from common.photos import find_photos
from common.progress import progress
from serving.contract.answer import Refusal
from serving.contract.errors import ServingError
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.runtime.torchscript import one_thread

PART_ROWS: Final = 2000


class ScoreError(UserError):
    """The photos cannot be scored; the text names the cause and the next step."""


class Scorer:
    """One artefact that answers photos by path. Ray and the local run use the same."""

    def __init__(self, model: Path) -> None:
        """Load and prove the artefact.

        Raises:
            ServingError: it cannot be.
        """
        self.handler = ImageClassifierHandler()
        self.handler.initialize(LocalContext.for_file(model))
        card = self.handler.artifact.card
        self.schema = pa.schema(
            [
                ("path", pa.string()),
                ("prediction", pa.string()),
                ("probability", pa.float32()),
                *((f"p_{label}", pa.float32()) for label in card.labels),
                ("uncertain", pa.bool_()),
                ("unfamiliar", pa.bool_()),
                ("error", pa.string()),
                ("detail", pa.string()),
            ],
            metadata={"model": card.name, "version": card.version, "sha256": self.handler.artifact.sha256},
        )
        """Of the rows; its metadata names the artefact."""

    def row(self, path: str) -> dict[str, Any]:
        """The answer for one photo, or why there is none."""
        empty = dict.fromkeys(self.schema.names)
        try:
            body = Path(path).read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            return empty | {"path": path, "error": "unreadable", "detail": reason}
        answer = self.handler.handle([{"body": body}])[0]
        if isinstance(answer, Refusal):
            return empty | {"path": path, "error": answer.error, "detail": answer.detail}
        probabilities = {f"p_{label}": value for label, value in answer.probabilities.items()}
        kept = {
            name: getattr(answer, name) for name in ("prediction", "probability", "uncertain", "unfamiliar")
        }
        return empty | {"path": path} | kept | probabilities

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Rows as a table."""
        return pa.Table.from_pylist(list(rows), schema=self.schema)


def find_paths(source: Path) -> list[str]:
    """Photos below a folder, or the lines of a list, which are relative to its own folder.

    Raises:
        ScoreError: no such folder or list, or no photo.
    """
    if source.is_dir():
        paths = [str(path) for path in find_photos(source)]
    elif source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        paths = [str(source.parent / line.strip()) for line in lines if line.strip()]
    else:
        raise ScoreError(f"There is no folder or list {source}.")
    if not paths:
        raise ScoreError(f"{source} names no photo.")
    return paths


def score(scorer: Scorer, paths: list[str], out: Path, part_rows: int = PART_ROWS) -> dict[str, int]:
    """Write `out`; return how many photos had each outcome: ok, or the error's code.

    Raises:
        ScoreError: parts of another run lie beside `out`.
    """
    parts = out.with_name(out.name + ".parts")
    _agree(parts, scorer, paths, part_rows)
    starts = range(0, len(paths), part_rows)
    names = [parts / f"{start:012}.parquet" for start in starts]
    done = sum(min(part_rows, len(paths) - s) for s, p in zip(starts, names, strict=True) if p.exists())
    with pool_of_cores(one_thread) as pool, progress("score", len(paths), "photos", initial=done) as bar:
        for start, name in zip(starts, names, strict=True):
            if name.exists():
                continue
            rows = []
            for row in pool.map(scorer.row, paths[start : start + part_rows]):
                rows.append(row)
                bar.update()
            partial = name.with_suffix(".partial")
            pq.write_table(scorer.table(rows), partial)
            partial.replace(name)
    outcomes: Counter[str] = Counter()
    partial = out.with_name(out.name + ".partial")
    with pq.ParquetWriter(partial, scorer.schema) as writer:
        for table in map(pq.read_table, names):
            writer.write_table(table.cast(scorer.schema))
            outcomes.update(code or "ok" for code in table["error"].to_pylist())
    partial.replace(out)
    shutil.rmtree(parts)
    return dict(outcomes)


def _agree(parts: Path, scorer: Scorer, paths: list[str], part_rows: int) -> None:
    """Make the folder of parts, or see that it is of the same photos, artefact and size of parts."""
    plan = {
        "sha256": scorer.handler.artifact.sha256,
        "photos": hashlib.sha256("\n".join(paths).encode()).hexdigest(),
        "part_rows": part_rows,
    }
    note = parts / "plan.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != plan:
        raise ScoreError(
            f"{parts} is of a run of other photos or another model. Delete it, or name another OUT."
        )
    parts.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(plan), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Score; 0 when every photo has its row, 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m evaluation score", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder, or a text file with a path a line")
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--model", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--workers", type=int, default=2, help="processes of the engine ray")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".parquet":
        parser.error(f"{options.out} should end in .parquet")
    try:
        paths = find_paths(options.photos)
        if options.engine == "ray":
            outcomes = _on_ray(options.model, paths, options.out, options.workers)
        else:
            outcomes = score(Scorer(options.model), paths, options.out)
    except (ScoreError, ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run it again to go on; what is done is beside the output.", file=sys.stderr)
        return 130
    for outcome, count in sorted(outcomes.items(), key=lambda item: -item[1]):
        print(f"{count:>9} {outcome}")
    print(f"{options.out}: {sum(outcomes.values())} rows")
    return 0


def _on_ray(model: Path, paths: list[str], out: Path, workers: int) -> dict[str, int]:
    try:
        from evaluation.batch import ray
    except ImportError as error:
        raise ScoreError("Ray is not installed: make score ENGINE=ray does it.") from error
    return ray.score(model, paths, out, workers)
