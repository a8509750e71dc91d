"""Ratios of throughputs within a round: shares of the limit, comparisons with the peers, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bench import services
from bench.peer import PEERS

MAIN: Final = "500x375"
_KEY: Final = f"{MAIN}.throughput"
_SHARE: Final = 0.97
_TARGETS: Final = (
    *((name, None, _SHARE) for name in ("ours", *(f"ours_{kind}" for kind in services.OTHERS))),
    ("ours_int8", "ours", 1.45),
    ("ours_onnx", "fastapi_threads", 1.15),
    ("ours_onnx", "litserve", 1.2),
)
"""A service, what it is compared with (None for its own limit), and the least ratio that is wanted."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratios of all rounds in short."""

    median: float
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""
    rounds: int


def ratio(results: dict[str, Any], over: str, under: str) -> Ratio:
    """Throughput of one over that of another in the same round."""
    samples = results["samples"]
    pairs = zip(samples[over][_KEY], samples[under][_KEY], strict=True)
    values = [a / b for a, b in pairs]
    low, median, high = map(float, np.quantile(values, (0.25, 0.5, 0.75)))
    return Ratio(median, low, high, len(values))


def kind_of(name: str) -> str:
    """What a service serves: one of `services.OTHERS`, or the artefact in TorchScript."""
    if name in PEERS:
        return PEERS[name].kind
    kind = name.rpartition("_")[2]
    return kind if kind in services.OTHERS else ""


def limit_of(name: str) -> str:
    """The limit with the file that a service serves, run as our service runs it."""
    return f"limit_{kind}" if (kind := kind_of(name)) else "limit"


def ours_for(name: str) -> str:
    """Our service with the file that a peer serves."""
    return f"ours_{kind}" if (kind := kind_of(name)) else "ours"


def targets(results: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """A table: each target that could be measured, and whether it was met."""
    lines = [
        "| compared | target | median | middle half | rounds | met |",
        "| --- |" + " --- |" * 5,
    ]
    for name, other, least in _TARGETS:
        under = other or limit_of(name)
        if not all(_KEY in results["samples"].get(each, {}) for each in (name, under)):
            continue
        found = ratio(results, name, under)
        met = "yes" if found.median >= least else "no"
        lines.append(
            f"| {titles[name]} / {titles[under]} | {least:.2f} | {found.median:.3f} | "
            f"{found.low:.3f} to {found.high:.3f} | {found.rounds} | {met} |"
        )
    return lines
