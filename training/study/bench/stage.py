"""`python -m training bench`: measure fine-tuning throughput with three sources of batches.

The real trainer runs real steps in short turns: with batches as training makes them (from the decoded cache
or, beyond `loader.cache_limit`, from files), with files decoded and augmented with Pillow as in torchvision's
ImageFolder examples, and with a single batch in memory, which is the limit. How long steps wait for batches
is reported too.
"""

from __future__ import annotations

import argparse

from training.config import TrainConfig
from training.options import description, parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m training bench",
        description=description(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--size", type=int, default=160, help="side of the crops, in pixels (default: %(default)s)"
    )
    parser.add_argument("--turns", type=int, default=5, help="turns per source (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=10, help="optimiser steps per turn (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    place = Place()
    settings = parse(TrainConfig, place.train_config, [], command="bench", about="")
    from training.study.bench import rates

    print(rates.as_markdown(rates.measure(settings, place, options.size, options.turns, options.steps)))
    return 0
