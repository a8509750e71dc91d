"""`python -m training ablation`: what each part of the recipe is worth, on a part of the photos.

Each row is a training of its own, a run in MLflow, judged on the whole validation split and on photos of it
under corruption; test is not looked at. An interrupted one resumes row by row.
"""

from __future__ import annotations

import argparse

from training.place import Place


def main(arguments: list[str]) -> int:
    """Train every variant; print the table."""
    parser = argparse.ArgumentParser(prog="python -m training ablation", description=__doc__)
    parser.add_argument("--share", type=int, default=6, help="train on one of so many training photos")
    share = parser.parse_args(arguments).share
    from training.study.variants import ablate

    ablate(share, Place())
    return 0
