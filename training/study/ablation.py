"""`python -m training ablation`: measure what each part of the recipe contributes, on some of the photos.

Each variant is trained with several seeds, each a separate training and MLflow run, and evaluated after
calibration on the whole validation split and on some of its photos under corruption; the test split is not
used. A variant with fine-tuning reports the fine-tuned network, even where the head alone would be kept. With
`--recipes` the trainings are those of configs/train.yaml and configs/fast.yaml, in full. An interrupted study
resumes at its first missing training.
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
    parser.add_argument(
        "--seeds", type=int, default=3, help="trainings of each variant (default: %(default)s)"
    )
    parser.add_argument(
        "--recipes",
        action="store_true",
        help="compare the full recipe with the fast one, instead of short trainings with one part changed",
    )
    options = parser.parse_args(arguments)
    from training.study.variants import ablate, repeat

    (repeat if options.recipes else ablate)(options.share, options.seeds, Place())
    return 0
