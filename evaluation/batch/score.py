"""`python -m evaluation score IN OUT.parquet`: predict a folder or a list of photos."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.photos import find_photos, read_names
from evaluation.batch import local
from evaluation.batch.scorer import Scorer


class ScoreError(UserError):
    """The photos cannot be scored; the text names the cause and the next step."""


def find_paths(source: Path) -> list[str]:
    """Photos below a folder, or the lines of a list, which are relative to the folder of the list.

    Raises:
        ScoreError: the folder or list does not exist, or has no photos.
    """
    if source.is_dir():
        paths = [str(path) for path in find_photos(source)]
    elif source.is_file():
        paths = [str(path) for path in read_names(source)]
    else:
        raise ScoreError(f"There is no folder or list {source}. Check the path.")
    if not paths:
        raise ScoreError(
            f"{source} has no photos. Name a folder of photos, or a list with one path per line."
        )
    return paths


def main(options: argparse.Namespace) -> int:
    """Score; return 0 when every photo has its row."""
    paths = find_paths(options.photos)
    score = _on_ray(options.model, options.workers) if options.engine == "ray" else local.score
    outcomes = score(Scorer(options.model), paths, options.out)
    for outcome, count in outcomes.most_common():
        print(f"{count:>9} {outcome}")
    print(f"{options.out}: {outcomes.total()} rows")
    return 0


def _on_ray(model: Path, workers: int) -> Callable[[Scorer, list[str], Path], Counter[str]]:
    try:
        from evaluation.batch import ray
    except ImportError as error:
        raise ScoreError("Ray is not installed. Install and use it: make score ENGINE=ray.") from error
    return partial(ray.score, model=model, workers=workers)
