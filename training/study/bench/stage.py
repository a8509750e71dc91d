"""`python -m training bench`: photos a second in fine-tuning, on three sources of batches.

The real trainer takes the real steps, in short turns, on batches of the decoded cache of this project, of
files that are decoded and augmented with Pillow as torchvision's ImageFolder examples do, and of one batch
that is in memory already, which is the limit. How long a step waits for its batch is reported too.
"""

from __future__ import annotations

import argparse

from training.config import TrainConfig
from training.options import parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m training bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=int, default=160, help="side of the crops, in pixels")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    options = parser.parse_args(arguments)
    place = Place()
    settings = parse(TrainConfig, place.train_config, [], command="bench", about="")
    from training.study.bench import rates

    print(rates.as_markdown(rates.measure(settings, place, options.size, options.turns, options.steps)))
    return 0
