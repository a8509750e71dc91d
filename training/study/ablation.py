"""`python -m training ablation`: measure what each part of the recipe contributes, on some of the photos.

Each row is a separate training and MLflow run, evaluated on the whole validation split and on some of its
photos under corruption; the test split is not used. An interrupted study resumes at its first missing row.
"""

from __future__ import annotations

import argparse

from training.options import description
from training.place import Place


def main(arguments: list[str]) -> int:
    """Train every variant; print the table."""
    parser = argparse.ArgumentParser(prog="python -m training ablation", description=description(__doc__))
    parser.add_argument(
        "--share",
        type=int,
        default=6,
        help="train on one of every SHARE training photos (default: %(default)s)",
    )
    share = parser.parse_args(arguments).share
    from training.study.variants import ablate

    ablate(share, Place())
    return 0
