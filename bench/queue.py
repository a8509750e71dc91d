"""`python -m bench.queue`: what each limit on the wait in the queue costs, as a table.

For each value of `SERVING_QUEUE_SECONDS` a service of its own is offered twice and four times what it can
answer, at a fixed rate. The values take turns, so that a slow minute of the machine affects all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import load, services
from bench.photos import write_photos
from bench.ratios import MAIN
from common.progress import progress

_QUEUE_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.0)
_FACTORS: Final = (2, 4)
_SECONDS: Final = 10
_CALLERS: Final = 16
_SETTING: Final = "SERVING_QUEUE_SECONDS"

Results = dict[tuple[float, int], list[load.Overload]]


def measure(model: Path, rounds: int, folder: Path) -> Results:
    """The results of each round, for each queue limit in seconds and each multiple of the capacity."""
    photo = write_photos(folder, MAIN)[0]
    body = load.write_bodies([photo], folder / "bodies")[0]
    found: Results = {(limit, factor): [] for limit in _QUEUE_SECONDS for factor in _FACTORS}
    with progress("queue", rounds * len(_QUEUE_SECONDS), "services") as bar:
        for limit in _QUEUE_SECONDS * rounds:
            spec = replace(services.ours(), settings={_SETTING: str(limit)})
            with services.running(spec, model, model, photo.read_bytes(), folder / "log") as service:
                capacity = load.closed_loop(service.url, [body], _CALLERS, _SECONDS // 2, folder)
                for factor in _FACTORS:
                    service.wait_until_idle()
                    rate = factor * capacity.throughput_per_second
                    found[limit, factor].append(load.fixed_rate(service.url, body, rate, _SECONDS, folder))
            bar.update()
    return found


def as_markdown(results: Results) -> str:
    """The table: medians over the rounds."""
    lines = [
        "| wait allowed (s) | load | predictions/s | their p50 (ms) | their p99 (ms) | refused |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (limit, factor), rounds in results.items():
        accepted, p50, p99, refused = (
            statistics.median(getattr(one, name) for one in rounds)
            for name in ("accepted_per_second", "accepted_p50_ms", "accepted_p99_ms", "refused_share")
        )
        lines.append(
            f"| {limit:g} | x{factor} | {accepted:.0f} | {p50:.0f} | {p99:.0f} | {100 * refused:.0f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(as_markdown(measure(options.model.resolve(), options.rounds, Path(folder))))


if __name__ == "__main__":
    main()
