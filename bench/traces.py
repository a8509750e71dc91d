"""`python -m bench.traces`: what traces cost, as a table of rates, latencies and CPU time against none.

The services answer from memory (`bench.uncomputed`), so that what is left is the path that is traced, and
take turns with the same callers. A server that computes nothing stands for the collector.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import load, machine, services
from bench.photos import write_photos
from bench.ratios import MAIN
from common.progress import progress

_CALLERS: Final = (1, 16)
_SECONDS: Final = 3
_SAMPLERS: Final = {
    "all sampled": {"OTEL_TRACES_SAMPLER": "always_on"},
    "1 % sampled": {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
}
_OTHER_CHECKOUT: Final = "import runpy, sys; sys.path[0] = {!r}; runpy.run_module({!r}, run_name='__main__')"

Results = dict[tuple[str, int], list[tuple[load.Load, float]]]
"""By service and number of callers: the load of each round, and the service's CPU time per request in ms."""


def measure(model: Path, rounds: int, before: Path | None, computed: bool, folder: Path) -> Results:
    """Load all services in turns; the first is what the others are compared with."""
    photo = write_photos(folder, MAIN)[0]
    body = load.write_bodies([photo], folder / "bodies")[0]
    plain = services.ours() if computed else services.uncomputed()
    specs = {"off": plain}
    if before:
        code = _OTHER_CHECKOUT.format(str(before.resolve()), plain.arguments[1])
        specs = {"before": replace(plain, arguments=("-c", code))} | specs
    with ExitStack() as stack:

        def start(spec: services.Spec, name: str) -> services.Running:
            log = folder / f"{name}.log"
            return stack.enter_context(services.running(spec, model, model, photo.read_bytes(), log))

        collector = start(services.null(), "collector").url.removesuffix("/predict")
        specs |= {
            name: replace(plain, settings={"OTEL_EXPORTER_OTLP_ENDPOINT": collector} | sampler)
            for name, sampler in _SAMPLERS.items()
        }
        running = {name: start(spec, name) for name, spec in specs.items()}
        found: Results = {(name, callers): [] for callers in _CALLERS for name in running}
        with progress("traces", rounds * len(found), "loads") as bar:
            for turn in range(rounds):
                for name, callers in [*found][:: -1 if turn % 2 else 1]:
                    service = running[name]
                    cpu = service.cpu_seconds()
                    one = load.closed_loop(service.url, [body], callers, _SECONDS, folder)
                    requests = one.throughput_per_second * _SECONDS
                    found[name, callers].append((one, 1000 * (service.cpu_seconds() - cpu) / requests))
                    bar.update()
    return found


def as_markdown(results: Results) -> str:
    """The table: medians over the rounds, of ratios within a round."""
    first = next(iter(results))[0]
    lines = [
        f"| traces | callers | requests/s | p50 (ms) | p99 (ms) | CPU (ms) | CPU / {first} | middle half |",
        "| --- |" + " --- |" * 7,
    ]
    for (name, callers), rounds in results.items():
        rate, p50, p99 = (
            statistics.median(getattr(one, field) for one, _ in rounds)
            for field in ("throughput_per_second", "p50_ms", "p99_ms")
        )
        pairs = zip(rounds, results[first, callers], strict=True)
        low, middle, high = statistics.quantiles(
            (cpu / reference for (_, cpu), (_, reference) in pairs), n=4, method="inclusive"
        )
        lines.append(
            f"| {name} | {callers} | {rate:.0f} | {p50:.2f} | {p99:.2f} | "
            f"{statistics.median(cpu for _, cpu in rounds):.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/release/model.onnx"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--computed", action="store_true", help="decode and infer each photo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(
            options.model.resolve(), options.rounds, options.before, options.computed, Path(folder)
        )
    print(as_markdown(results))
    print(
        f"\n{options.rounds} rounds of {_SECONDS} s, {machine.processor()}, Python {sys.version.split()[0]}"
    )


if __name__ == "__main__":
    main()
