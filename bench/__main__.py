"""`python -m bench`: measure the service, its peers and the limit (see `bench.run`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.command import guarded


def main(words: list[str]) -> int:
    """Measure; return 0 if every requested service was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure this service, its peers and the limit in one run, on the same photos.",
    )
    default = "(default: %(default)s)"
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("models/release/model.pt"),
        help=f"artefact that all services serve; ours also those in ONNX next to it {default}",
    )
    parser.add_argument("--peers", help="comma-separated folders of bench/peers; '' for none (default: all)")
    parser.add_argument(
        "--rounds", type=int, default=9, help=f"turns of every load on every service {default}"
    )
    parser.add_argument("--seconds", type=int, default=2, help=f"length of each measurement {default}")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help=f"folder for performance.md and images {default}"
    )
    options = parser.parse_args(words)

    def run() -> int:
        from bench import run  # loads torch, which --help does not need

        return run.main(options)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
