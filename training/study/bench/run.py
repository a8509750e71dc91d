"""`python -m training bench`: photos a second in fine-tuning, beside the plain loop, Keras and the limit.

The same network takes the same steps on batches of three sources, in short turns: the decoded cache of this
project, files decoded and augmented with Pillow as torchvision's ImageFolder examples do, and one batch that
is in memory already, which is the limit. Keras trains the same network in an environment of its own, as its
tutorial on this data does. The share of the time that a step waits for its batch is told too.

With `--to 0.99` each way trains until it has that accuracy on validation, and tells how long it took: ours
with its head first and its moving average, the others from a random head, all at the same constant learning
rate.
"""

from __future__ import annotations

import shutil
import statistics
import time
from contextlib import nullcontext
from typing import Any, Final

import torch

from bench.services import ServiceError
from common import files
from common.errors import PipelineError
from common.progress import progress
from serving.contract.preprocess import RESIZE_RULE
from training.fit.stage import train_head
from training.fit.trainer import quiet_lightning
from training.network.build import build
from training.study.bench.loops import WORK, Bench, Loop

_OURS, _PLAIN, _LIMIT, _KERAS = (
    "decoded cache (this project)",
    "files, as ImageFolder does",
    "a batch in memory (limit)",
    "Keras, its own loop",
)
_BETWEEN: Final = 100
"""Steps from one look at the accuracy to the next."""


def bench(made: Bench, turns: int, steps: int, *, keras: bool) -> dict[str, Any]:
    """Measure photos a second; write `build/bench-train/rates.json`.

    Args:
        made: What all train with.
        turns: Turns of each source, one after the other.
        steps: Optimiser steps of a turn.
        keras: Whether Keras is measured too; it is installed if need be.

    Raises:
        PipelineError: Keras cannot be measured.
    """
    try:
        with made.keras() if keras else nullcontext() as process:
            loops: dict[str, Loop] = {_OURS: made.ours(), _PLAIN: made.plain(), _LIMIT: made.limit()}
            if process:
                loops[_KERAS] = process
            rates, waits = _measure(loops, turns, steps, made.config.loader.batch_size)
    except ServiceError as error:
        raise PipelineError(f"{error} Without it: --keras false.") from error
    figures = {
        "photos": len(made.manifest.splits["train"].targets),
        "size": made.size,
        "batch_size": made.config.loader.batch_size,
        "threads": torch.get_num_threads(),
        "turns": turns,
        "steps": steps,
        "resize": RESIZE_RULE,
        "sources": {
            name: {
                "photos_a_second": statistics.median(rates[name]),
                "of_the_limit": statistics.median(
                    rate / limit for rate, limit in zip(rates[name], rates[_LIMIT], strict=True)
                ),
                "waiting": statistics.median(waits[name]),
            }
            for name in loops
        },
    }
    files.write_json(WORK / "rates.json", figures)
    return figures


def _measure(
    loops: dict[str, Loop], turns: int, steps: int, batch_size: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Photos a second, and the share of waiting, of each turn."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    waits: dict[str, list[float]] = {name: [] for name in loops}
    with progress("bench-train", turns * len(loops), "turns") as bar:
        for _ in range(turns):
            for name, loop in loops.items():
                loop.turn(2)  # the workers have started and are ahead
                seconds, waited = loop.turn(steps)
                loop.rest()
                rates[name].append(steps * batch_size / seconds)
                waits[name].append(waited / seconds)
                bar.update()
    return rates, waits


def race(made: Bench, accuracy: float, passes: int, *, keras: bool) -> dict[str, Any]:
    """Train each way until it has `accuracy` on validation; write `build/bench-train/race.json`.

    Args:
        made: What all train with.
        accuracy: What is to be reached.
        passes: Passes over the photos after which it is given up.
        keras: Whether Keras runs too.

    Raises:
        PipelineError: Keras cannot run.
    """
    quiet_lightning()
    results: dict[str, Any] = {}
    began = time.perf_counter()
    network = build(made.config.model, len(made.manifest.labels))
    shutil.rmtree(WORK / "head", ignore_errors=True)
    train_head(made.config, made.manifest, made.photos, network, None, WORK / "head")
    head_seconds = time.perf_counter() - began
    ours = made.ours(network, made.config.finetune.ema_decay)
    results[_OURS] = _run(_OURS, made, ours, accuracy, passes, head_seconds)
    results[_PLAIN] = _run(_PLAIN, made, made.plain(), accuracy, passes)
    if keras:
        try:
            with made.keras() as loop:
                results[_KERAS] = _run(_KERAS, made, loop, accuracy, passes)
        except ServiceError as error:
            raise PipelineError(f"{error} Without it: --keras false.") from error
    files.write_json(WORK / "race.json", results)
    return results


def _run(
    name: str, made: Bench, loop: Loop, accuracy: float, passes: int, seconds: float = 0.0
) -> dict[str, Any]:
    """Train one way; its accuracies by seconds of training, looks left out."""
    steps = passes * len(made.manifest.splits["train"].targets) // made.config.loader.batch_size
    trace = []
    if seconds:
        trace.append({"steps": 0, "seconds": seconds, "accuracy": loop.accuracy()})
    done = 0
    while done < steps and not (trace and trace[-1]["accuracy"] >= accuracy):
        more = min(_BETWEEN, steps - done)
        seconds += loop.turn(more)[0]
        done += more
        trace.append({"steps": done, "seconds": seconds, "accuracy": loop.accuracy()})
        print(f"{name}: {done} steps, {seconds:.0f} s, accuracy {trace[-1]['accuracy']:.4f}", flush=True)
    loop.rest()
    best = max(trace, key=lambda look: look["accuracy"])
    reached = trace[-1]["accuracy"] >= accuracy
    return {"reached": reached, "seconds": trace[-1]["seconds"], "best": best, "trace": trace}


def rates_as_markdown(figures: dict[str, Any]) -> str:
    """What `bench` found, as a table."""
    lines = [
        "| batches from | photos/s | of the limit | waiting for batches |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['photos_a_second']:.1f} | {row['of_the_limit']:.0%} | {row['waiting']:.1%} |"
        for name, row in figures["sources"].items()
    ]
    about = (
        f"{figures['size']} pixels, batches of {figures['batch_size']}, {figures['threads']} threads; "
        f"medians of {figures['turns']} turns of {figures['steps']} steps, ratios within a turn."
    )
    return "\n".join([*lines, "", about])


def race_as_markdown(results: dict[str, Any], accuracy: float) -> str:
    """What `race` found, as a table."""
    lines = [
        f"| way | {100 * accuracy:g} % after | steps | best accuracy seen |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in results.items():
        after = (
            f"{row['seconds'] / 60:.1f} min" if row["reached"] else f"not in {row['seconds'] / 60:.1f} min"
        )
        steps, best = row["trace"][-1]["steps"], row["best"]["accuracy"]
        lines.append(f"| {name} | {after} | {steps} | {100 * best:.2f} % |")
    return "\n".join(lines)
