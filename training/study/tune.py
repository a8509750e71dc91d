"""`python -m training tune`: search for better values of the recipe with Optuna, on validation.

Each trial is a short training on some of the photos and an MLflow run below that of the search; the test
split is not used. An interrupted search resumes where it stopped. The best of many trials is partly luck:
train it in full, with the recipe next to it, before you believe it.
"""

from __future__ import annotations

import argparse

from training.options import description
from training.place import Place


def main(arguments: list[str]) -> int:
    """Search; print the trials."""
    parser = argparse.ArgumentParser(prog="python -m training tune", description=description(__doc__))
    parser.add_argument(
        "--trials", type=int, default=30, help="trials in all, earlier ones included (default: %(default)s)"
    )
    parser.add_argument(
        "--share",
        type=int,
        default=6,
        help="train on one of every SHARE training photos (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    from training.study.search import search

    search(options.share, options.trials, Place())
    return 0
