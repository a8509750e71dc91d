"""`python -m bench`: the service, its peers and the limit, measured. `bench.run` does it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.command import guarded


def main(words: list[str]) -> int:
    """Measure; return 0 when every service that was asked for was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure our service, its peers and the limit in one run, with the same photos.",
    )
    parser.add_argument("--model", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--lean", type=Path, default=Path("models/release/model-int8.pt"))
    parser.add_argument("--peers", help="comma-separated folders of bench/peers; empty for none; else all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args(words)

    def run() -> int:
        from bench import run  # it loads torch, and help needs none

        return run.main(options)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
