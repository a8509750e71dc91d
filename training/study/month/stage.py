"""`python -m training month`: live through a month of changing photos with and without the loop.

Real photos of validation arrive, changed by corruptions that come, grow, mix and go. A head on the released
network's frozen features is retrained never, on a schedule or on drift, from labels at random or as the
review queue chooses them. The test split is not used. An interrupted study resumes where it stopped.
"""

from __future__ import annotations

import argparse

from training.options import description
from training.place import Place


def main(arguments: list[str]) -> int:
    """Simulate; print the tables."""
    parser = argparse.ArgumentParser(prog="python -m training month", description=description(__doc__))
    parser.add_argument("--seeds", type=int, default=20, help="months of each policy (default: %(default)s)")
    options = parser.parse_args(arguments)
    from training.study.month.study import study

    study(options.seeds, Place())
    return 0
