"""`make bench`: this service, its peers and the limit, in one run on one machine with the same photos.

All services run throughout, and all but the measured one are idle. They are measured in short turns, so a
slow minute of the machine affects all alike. Figures are medians over the rounds; ratios are within a round.
Writes `docs/performance.md`, its pictures, and every figure to
`build/bench/results.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import platform
import signal
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import limit, load, machine, page, peer, services
from bench.page import CALLERS
from bench.photos import SIZES, write_photos
from bench.ratios import MAIN
from common.files import write_json, write_text
from common.processor import cores
from common.progress import progress
from evaluation.figures import pictures
from serving.contract.answer import Answer
from serving.runtime.handler import load_handler

_WORK: Final = Path("build/bench")
_RECOGNISED: Final = tuple(
    Path(__file__).parent.parent / f"deploy/smoke/{name}.jpg" for name in ("cat", "dog")
)
_TERMINATED: Final = 143
_STARTS: Final = 3
_OVERLOAD_SECONDS: Final = 10
_OFFERED: Final = (0.5, 0.9, 1.5, 2.0, 4.0)
_OVERLOADED: Final = ("ours", "fastapi_threads", "litserve")

Samples = dict[str, dict[str, list[float]]]


def main(options: argparse.Namespace) -> int:
    """Measure; return 0 if every requested service was measured.

    Args:
        options: As `bench.__main__` declares them.
    """
    load.require_generators()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that no service outlives it
    _WORK.mkdir(parents=True, exist_ok=True)
    results = measure(options.model.resolve(), options.peers, options.rounds, options.seconds)
    write_json(_WORK / "results.json", results)
    text = page.as_markdown(results)
    write_text(options.out / "performance.md", text)
    pictures.save(page.throughput_figure(results), options.out / "images/performance.png")
    if "ours" in results["overload"]:
        pictures.save(page.overload_figure(results), options.out / "images/overload.png")
    print(text)
    return 1 if results["missing"] else 0


def measure(model: Path, peers: str | None, rounds: int, seconds: int) -> dict[str, Any]:
    """Every figure, ready for JSON.

    Args:
        model: The artefact that all serve.
        peers: Comma-separated names; None for all.
        rounds: Turns of every load on every service.
        seconds: Of each measurement.
    """
    weights = services.write_eager_weights(model, _WORK / "weights.pt").resolve()
    photos = {name: write_photos(_WORK / "photos", name) for name in SIZES}
    missing: dict[str, str] = {}
    specs = [services.null(), services.uncomputed(), services.ours()]
    limits = {"limit": model}
    for kind, path in services.other_files(model).items():
        limits[f"limit_{kind}"] = path
        specs.append(services.ours_with(kind, path))
    names = list(peer.PEERS) if peers is None else [name for name in peers.split(",") if name]
    specs += _installed(names, services.other_files(model), missing)
    contents = {spec.name: services.contents(spec) for spec in specs}
    samples: Samples = defaultdict(lambda: defaultdict(list))
    for name, found in contents.items():
        samples[name]["installed_mb"].append(found["megabytes"])
    overload = {}
    with contextlib.ExitStack() as stack:
        baselines = {name: stack.enter_context(limit.running(artefact)) for name, artefact in limits.items()}
        started = _start(stack, specs, model, weights, photos, samples, missing)
        _measure(started, baselines, photos, rounds, seconds, samples)
        capacity = statistics.median(samples["ours"][f"{MAIN}.throughput"])
        for name in (name for name in _OVERLOADED if name in started):
            factors = _OFFERED if name == "ours" else _OFFERED[-1:]
            overload[name] = _overload(started[name], photos[MAIN], capacity, factors)
    return {
        "machine": f"{machine.processor()}, {cores()} cores, Python {platform.python_version()}",
        "processor": machine.processor(),
        "instructions": machine.instructions(),
        "cores": cores(),
        "rounds": rounds,
        "seconds": seconds,
        "starts": _STARTS,
        "versions": {name: found["versions"] for name, found in contents.items()},
        "medians": {n: {k: statistics.median(v) for k, v in s.items()} for n, s in samples.items()},
        "samples": samples,
        "overload": {n: [asdict(value) for value in values] for n, values in overload.items()},
        "missing": missing,
    }


def _installed(names: list[str], files: dict[str, Path], missing: dict[str, str]) -> list[services.Spec]:
    """The peers that install; `missing` gets the reason for the others."""
    specs = []
    for name in names:
        try:
            specs.append(peer.peer(name, _WORK.resolve(), files))
        except services.ServiceError as error:
            missing[name] = str(error)
    return specs


def _start(
    stack: contextlib.ExitStack,
    specs: list[services.Spec],
    model: Path,
    weights: Path,
    photos: dict[str, list[Path]],
    samples: Samples,
    missing: dict[str, str],
) -> dict[str, services.Running]:
    """Start each service a few times, one after the other; keep the last start and warm it up.

    One that does not recognise what our handler recognises is not measured.
    """
    started = {}
    photo, labels = photos[MAIN][0].read_bytes(), _labels(model)
    with progress("start", len(specs) * _STARTS, "services") as bar:
        for spec in specs:
            try:
                for number in range(_STARTS):
                    once = services.running(spec, model, weights, photo, _WORK / f"{spec.name}.log")
                    if number < _STARTS - 1:
                        with once as service:
                            samples[spec.name]["ready_seconds"].append(service.seconds_to_ready)
                            if spec.same_network:
                                service.check_labels(labels)
                    else:
                        started[spec.name] = stack.enter_context(once)
                    bar.update()
            except services.ServiceError as error:
                missing[spec.name] = str(error)
                continue
            samples[spec.name]["ready_seconds"].append(started[spec.name].seconds_to_ready)
            for paths in photos.values():
                bodies = load.write_bodies(paths, _WORK / "bodies")
                load.closed_loop(started[spec.name].url, bodies, CALLERS, 1, _WORK)
    return started


def _labels(model: Path) -> dict[Path, int]:
    """What the handler recognises on photos of animals: the index of the label, by photo."""
    answers = load_handler(model).handle([{"body": path.read_bytes()} for path in _RECOGNISED])
    found = [[*answer.probabilities.values()] for answer in answers if isinstance(answer, Answer)]
    return {path: int(np.argmax(values)) for path, values in zip(_RECOGNISED, found, strict=True)}


def _measure(
    started: dict[str, services.Running],
    baselines: dict[str, limit.Limit],
    photos: dict[str, list[Path]],
    rounds: int,
    seconds: int,
    samples: Samples,
) -> None:
    """Every load on every service, in turns."""
    bodies = {size: load.write_bodies(paths, _WORK / "bodies") for size, paths in photos.items()}
    loads = [(MAIN, 1), *((size, CALLERS) for size in SIZES)]
    with progress("bench", rounds * len(loads) * len(started), "measurements") as bar:
        for _, (size, callers) in itertools.product(range(rounds), loads):
            for name, baseline in baselines.items() if callers > 1 else ():
                for key, value in baseline.measure(photos[size], seconds).items():
                    samples[name][f"{size}.{key}"].append(value)
            for name, service in started.items():
                _measure_one(service, size, bodies[size], callers, seconds, samples[name])
                bar.update()
        for name, service in started.items():
            samples[name]["resident_mb"].append(service.resident_megabytes())


def _measure_one(
    service: services.Running,
    size: str,
    bodies: list[Path],
    callers: int,
    seconds: int,
    into: dict[str, list[float]],
) -> None:
    """One load on one service."""
    before = service.cpu_seconds()
    result = load.closed_loop(service.url, bodies, callers, seconds, _WORK)
    used = service.cpu_seconds() - before
    key = size if callers > 1 else f"{size}.one"
    into[f"{key}.throughput"].append(result.throughput_per_second)
    into[f"{key}.p50_ms"].append(result.p50_ms)
    into[f"{key}.p95_ms"].append(result.p95_ms)
    into[f"{key}.p99_ms"].append(result.p99_ms)
    into[f"{key}.failed"].append(result.failed)
    into[f"{key}.generator_cpu_ms"].append(result.generator_cpu_ms)
    into[f"{key}.cpu_ms"].append(1000 * used / max(1.0, result.throughput_per_second * seconds))
    service.wait_until_idle()


def _overload(
    service: services.Running, photos: list[Path], capacity: float, factors: tuple[float, ...]
) -> list[load.Overload]:
    """Offer multiples of our own capacity, whatever the service can do."""
    body = load.write_bodies(photos, _WORK / "bodies")[0]
    return [
        load.fixed_rate(service.url, body, factor * capacity, _OVERLOAD_SECONDS, _WORK) for factor in factors
    ]
