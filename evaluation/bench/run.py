"""`make bench`: our service, its peers and the limit, in one run on one machine with the same photos.

Rounds are interleaved, so that a slow minute of the machine touches all alike; figures are medians over
the rounds. Writes `docs/performance.md`, its picture, and every figure to `build/bench/results.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Final

from evaluation import report
from evaluation.bench import load, page, services
from evaluation.bench.page import CALLERS, MAIN
from evaluation.bench.photos import SIZES, write_photos
from evaluation.machine import cores, progress

_WORK: Final = Path("build/bench")
_OFFERED: Final = (0.5, 0.9, 1.5, 2.0, 4.0)
_OVERLOADED: Final = ("ours", "fastapi_threads", "litserve")

Samples = dict[str, dict[str, list[float]]]


def main(arguments: list[str]) -> int:
    """Measure; 0 when every service that was asked for was measured."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.run", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--lean", type=Path, default=Path("models/release/model-int8.pt"))
    parser.add_argument("--peers", default=",".join(services.PEERS), help="comma-separated; empty for none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    _WORK.mkdir(parents=True, exist_ok=True)
    model = options.model.resolve()
    weights = services.write_eager_weights(model, _WORK / "weights.pt").resolve()
    photos = {name: write_photos(_WORK / "photos", name) for name in SIZES}
    missing: dict[str, str] = {}
    limits = {"limit": model}
    specs = [services.null(), services.ours()]
    if options.lean.exists():
        limits["limit_int8"] = options.lean.resolve()
        specs.append(services.ours_int8(limits["limit_int8"]))
    specs += _installed([name for name in options.peers.split(",") if name], missing)
    samples: Samples = defaultdict(lambda: defaultdict(list))
    with progress("bench", options.rounds * (len(specs) + 1), "runs") as bar:
        for _ in range(options.rounds):
            for (name, artefact), size in itertools.product(limits.items(), SIZES):
                for key, value in _limit(artefact, photos[size], options.seconds).items():
                    samples[name][f"{size}.{key}"].append(value)
            bar.update()
            for spec in specs:
                try:
                    _measure(spec, model, weights, photos, options.seconds, samples[spec.name])
                except (services.ServiceError, load.LoadError) as error:
                    missing[spec.name] = str(error)
                bar.update()
    overload = {}
    for spec in specs:
        if spec.name in _OVERLOADED and spec.name not in missing:
            factors = _OFFERED if spec.name == "ours" else _OFFERED[-1:]
            overload[spec.name] = _overload(spec, model, weights, photos, options.seconds, samples, factors)
    results = {
        "machine": f"{_processor()}, {cores()} cores, Python {platform.python_version()}",
        "cores": cores(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {spec.name: services.versions(spec) for spec in specs},
        "medians": {n: {k: statistics.median(v) for k, v in s.items()} for n, s in samples.items()},
        "samples": samples,
        "overload": {n: [asdict(value) for value in values] for n, values in overload.items()},
        "missing": missing,
    }
    (_WORK / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    text = page.as_markdown(results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "performance.md").write_text(text)
    report.save(page.throughput_figure(results), options.out / "images/performance.png")
    if "ours" in overload:
        report.save(page.overload_figure(results), options.out / "images/overload.png")
    print(text)
    return 1 if missing else 0


def _installed(names: list[str], missing: dict[str, str]) -> list[services.Spec]:
    """The peers that install; of the others, the reason."""
    specs = []
    for name in names:
        try:
            specs.append(services.peer(name, _WORK.resolve()))
        except services.ServiceError as error:
            missing[name] = str(error)
    return specs


def _limit(model: Path, photos: list[Path], seconds: int) -> dict[str, float]:
    """In a process of its own, like every service."""
    command = [sys.executable, "-m", "evaluation.bench.limit", str(model), str(seconds), *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _measure(
    spec: services.Spec,
    model: Path,
    weights: Path,
    photos: dict[str, list[Path]],
    seconds: int,
    into: dict[str, list[float]],
) -> None:
    """One start of one service under each load."""
    photo = photos[MAIN][0].read_bytes()
    with services.running(spec, model, weights, photo, _WORK / f"{spec.name}.log") as service:
        into["ready_seconds"].append(service.seconds_to_ready)
        bodies = {name: load.write_bodies(paths, _WORK / "bodies") for name, paths in photos.items()}
        load.closed_loop(service.url, bodies[MAIN], CALLERS, 2, _WORK)  # warm
        for size, callers in ((MAIN, 1), *((name, CALLERS) for name in SIZES)):
            before = service.cpu_seconds()
            result = load.closed_loop(service.url, bodies[size], callers, seconds, _WORK)
            used = service.cpu_seconds() - before
            key = size if callers > 1 else f"{size}.one"
            into[f"{key}.throughput"].append(result.throughput_per_second)
            into[f"{key}.p50_ms"].append(result.p50_ms)
            into[f"{key}.p95_ms"].append(result.p95_ms)
            into[f"{key}.p99_ms"].append(result.p99_ms)
            into[f"{key}.failed"].append(result.failed)
            into[f"{key}.generator_cpu_ms"].append(result.generator_cpu_ms)
            answers = max(1.0, result.throughput_per_second * seconds)
            into[f"{key}.cpu_ms"].append(1000 * used / answers)
        into["resident_mb"].append(service.resident_megabytes())


def _overload(
    spec: services.Spec,
    model: Path,
    weights: Path,
    photos: dict[str, list[Path]],
    seconds: int,
    samples: Samples,
    factors: tuple[float, ...],
) -> list[load.Overload]:
    """Multiples of our own capacity, whatever the service can do."""
    capacity = statistics.median(samples["ours"][f"{MAIN}.throughput"])
    body = load.write_bodies(photos[MAIN], _WORK / "bodies")[0]
    photo = photos[MAIN][0].read_bytes()
    with services.running(spec, model, weights, photo, _WORK / f"{spec.name}.log") as service:
        load.closed_loop(service.url, [body], CALLERS, 2, _WORK)  # warm
        return [load.fixed_rate(service.url, body, f * capacity, 2 * seconds, _WORK) for f in factors]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
