"""`make bench`: our service, its peers and the limit, in one run on one machine with the same photos.

Rounds are interleaved, so that a slow minute of the machine touches all alike; figures are medians over
the rounds. Writes `docs/performance.md`, its picture, and every figure to `build/bench/results.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evaluation import report
from evaluation.bench import load, services
from evaluation.bench.photos import SIZES, write_photos
from evaluation.machine import cores, progress

_WORK: Final = Path("build/bench")
_MAIN: Final = "500x375"
_CALLERS: Final = 16
_OVERLOADED: Final = ("ours", "fastapi_threads", "litserve")

Samples = dict[str, dict[str, list[float]]]


def main(arguments: list[str]) -> int:
    """Measure; 0 when every service that was asked for was measured."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.run", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--peers", default=",".join(services.PEERS), help="comma-separated; empty for none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    _WORK.mkdir(parents=True, exist_ok=True)
    model = options.model.resolve()
    weights = services.write_eager_weights(model, _WORK / "weights.pt").resolve()
    photos = {name: write_photos(_WORK / "photos", name) for name in SIZES}
    specs, missing = [services.null(), services.ours()], {}
    for name in filter(None, options.peers.split(",")):
        try:
            specs.append(services.peer(name, _WORK.resolve()))
        except services.ServiceError as error:
            missing[name] = str(error)
    samples: Samples = defaultdict(lambda: defaultdict(list))
    with progress("bench", options.rounds * (len(specs) + 1), "runs") as bar:
        for _ in range(options.rounds):
            for size in SIZES:
                samples["limit"][f"{size}.throughput"].append(_limit(model, photos[size], options.seconds))
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
            overload[spec.name] = _overload(spec, model, weights, photos, options.seconds, samples)
    results = {
        "machine": f"{_processor()}, {cores()} cores, Python {platform.python_version()}",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {spec.name: services.versions(spec) for spec in specs},
        "medians": {n: {k: statistics.median(v) for k, v in s.items()} for n, s in samples.items()},
        "samples": samples,
        "overload": {name: asdict(value) for name, value in overload.items()},
        "missing": missing,
    }
    (_WORK / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    text = as_markdown(results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "performance.md").write_text(text)
    report.save(_figure(results), options.out / "images/performance.png")
    print(text)
    return 1 if missing else 0


def _limit(model: Path, photos: list[Path], seconds: float) -> float:
    """In a process of its own, like every service."""
    command = [sys.executable, "-m", "evaluation.bench.limit", str(model), str(seconds), *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def _measure(
    spec: services.Spec,
    model: Path,
    weights: Path,
    photos: dict[str, list[Path]],
    seconds: float,
    into: dict[str, list[float]],
) -> None:
    """One start of one service under each load."""
    photo = photos[_MAIN][0].read_bytes()
    with services.running(spec, model, weights, photo, _WORK / f"{spec.name}.log") as service:
        into["ready_seconds"].append(service.seconds_to_ready)
        bodies = {name: load.write_bodies(paths, _WORK / "bodies") for name, paths in photos.items()}
        load.closed_loop(service.url, bodies[_MAIN], _CALLERS, 2, _WORK)  # warm
        for size, callers in ((_MAIN, 1), *((name, _CALLERS) for name in SIZES)):
            before = service.cpu_seconds()
            result = load.closed_loop(service.url, bodies[size], callers, seconds, _WORK)
            used = service.cpu_seconds() - before
            key = size if callers > 1 else f"{size}.one"
            into[f"{key}.throughput"].append(result.throughput_per_second)
            into[f"{key}.p50_ms"].append(result.p50_ms)
            into[f"{key}.p95_ms"].append(result.p95_ms)
            into[f"{key}.p99_ms"].append(result.p99_ms)
            into[f"{key}.failed"].append(result.failed)
            answers = max(1.0, result.throughput_per_second * seconds)
            into[f"{key}.cpu_ms"].append(1000 * used / answers)
        into["resident_mb"].append(service.resident_megabytes())


def _overload(
    spec: services.Spec,
    model: Path,
    weights: Path,
    photos: dict[str, list[Path]],
    seconds: float,
    samples: Samples,
) -> load.Overload:
    """Four times our own capacity, whatever the service can do."""
    rate = 4 * statistics.median(samples["ours"][f"{_MAIN}.throughput"])
    body = load.write_bodies(photos[_MAIN], _WORK / "bodies")[0]
    photo = photos[_MAIN][0].read_bytes()
    with services.running(spec, model, weights, photo, _WORK / f"{spec.name}.log") as service:
        load.closed_loop(service.url, [body], _CALLERS, 2, _WORK)  # warm
        return load.fixed_rate(service.url, body, rate, max(10.0, seconds))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def as_markdown(results: dict[str, Any]) -> str:
    """The page: conditions, the table, overload, and what was not measured."""
    medians, main = results["medians"], _MAIN
    limit = medians["limit"][f"{main}.throughput"]
    ours = medians.get("ours", {}).get(f"{main}.throughput", float("nan"))
    titles = {"limit": "the limit: decode and inference in plain threads, no HTTP"}
    titles |= {"ours": services.ours().title, "null": services.null().title} | services.PEERS
    columns = ["service", f"photos/s {main}", "of the limit", "ours is", "p50 ms", "p99 ms", "alone p50 ms"]
    columns += ("photos/s 224x224", "photos/s 4000x3000", "CPU ms a photo", "resident MB", "ready s")
    lines = [
        "# Performance",
        "",
        f"Made by `make bench`; do not edit. Median of {results['rounds']} interleaved rounds of",
        f"{results['seconds']:g} s each. {results['machine']}.",
        f"Load: wrk, {_CALLERS} callers (and one, where said), multipart photos; the generator shares the",
        "machine with the service. Photos are drawn, as large in bytes as photographs.",
        "",
        "![Throughput](images/performance.png)",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- " * len(columns) + "|",
    ]
    order = sorted(medians, key=lambda name: -medians[name].get(f"{main}.throughput", 0.0))
    for name in order:
        m = medians[name]
        rate = m.get(f"{main}.throughput", float("nan"))
        cells = [
            titles[name],
            f"{rate:.1f}",
            f"{rate / limit:.0%}" if name != "null" else "",
            f"{ours / rate:.2f}x" if name not in ("null", "ours") else "",
            *(
                f"{m[key]:.{digits}f}" if key in m else ""
                for key, digits in (
                    (f"{main}.p50_ms", 0),
                    (f"{main}.p99_ms", 0),
                    (f"{main}.one.p50_ms", 1),
                    ("224x224.throughput", 1),
                    ("4000x3000.throughput", 1),
                    (f"{main}.cpu_ms", 1),
                    ("resident_mb", 0),
                    ("ready_seconds", 1),
                )
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"## Overload: four times our capacity at {main}, offered at a fixed rate (hey, 200 connections)",
        "",
        "| service | offered/s | answered/s | p99 ms | refused | refusal p50 ms | p99 ms | answers |",
        "| --- |" + " --- |" * 7,
    ]
    for name, o in results["overload"].items():
        statuses = ", ".join(f"{code}: {count}" for code, count in o["statuses"].items())
        lines.append(
            f"| {titles[name]} | {o['offered_per_second']:.0f} | {o['accepted_per_second']:.1f} | "
            f"{o['accepted_p99_ms']:.0f} | {o['refused_share']:.0%} | {o['refused_p50_ms']:.0f} | "
            f"{o['refused_p99_ms']:.0f} | {statuses} |"
        )
    lines += ["", "## Versions", ""]
    for name, found in results["versions"].items():
        lines.append(f"- {titles[name]}: " + ", ".join(f"{k} {v}" for k, v in found.items()))
    if results["missing"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {titles.get(name, name)}: {why}" for name, why in results["missing"].items()]
    return "\n".join(lines) + "\n"


def _figure(results: dict[str, Any]) -> Any:
    medians = {n: m for n, m in results["medians"].items() if n != "null"}
    order = sorted(medians, key=lambda name: medians[name].get(f"{_MAIN}.throughput", 0.0))
    titles = {"limit": "limit (no HTTP)", "ours": "this service"} | services.PEERS
    figure = report.new_figure(8.5, 0.5 * len(order) + 1.3)
    axes = figure.add_subplot()
    values = [medians[name].get(f"{_MAIN}.throughput", 0.0) for name in order]
    colours = [report.BLUE if n == "ours" else report.GREY if n == "limit" else report.ORANGE for n in order]
    axes.barh([titles[name] for name in order], values, color=colours)
    for position, value in enumerate(values):
        axes.text(value, position, f" {value:.0f}", va="center")
    axes.set_xlabel(f"photos a second, {_MAIN} JPEG, {_CALLERS} callers, {results['machine']}")
    axes.margins(x=0.1)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
