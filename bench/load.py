"""Load on a service: closed loop with wrk, fixed rate with h2load.

Both cost little CPU time. `bench.run` also measures them against a server that computes nothing: a
result close to that one is limited by the generator.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from common.errors import UserError

_BOUNDARY: Final = "----bench"
_PERIOD: Final = 2  # seconds between requests of a connection: the deadline, so it is free again
_RAMP_MS: Final = 20
_WARM_SECONDS: Final = 4
_UNAVAILABLE: Final = 503
_LUA: Final = """
local bodies = {}
for path in string.gmatch(os.getenv("BODIES"), "[^:]+") do
  local file = assert(io.open(path, "rb"))
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
local turn = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=%s"
request = function()
  turn = turn %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[turn])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'JSON {"requests": %%d, "seconds": %%f, "p50": %%f, "p95": %%f, "p99": %%f, "failed": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class LoadError(UserError):
    """The generator is missing or failed; the text names the next step."""


@dataclass(frozen=True, slots=True)
class Load:
    """Results of a closed loop."""

    throughput_per_second: float
    """Successful responses per second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    """Responses other than 2xx, and broken connections."""
    generator_cpu_ms: float
    """CPU time of the generator itself per successful response."""


@dataclass(frozen=True, slots=True)
class Overload:
    """Results of a fixed rate."""

    offered_per_second: float
    accepted_per_second: float
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused_share: float
    refused_p50_ms: float
    refused_p99_ms: float
    statuses: dict[str, int]


def require_generators() -> None:
    """Pass if both load generators are installed: the second is needed only after a quarter of an hour.

    Raises:
        LoadError: one is not.
    """
    for name in ("wrk", "h2load"):
        if shutil.which(name) is None:
            raise LoadError(f"{name} is not installed. Install it: apt-get install wrk nghttp2-client.")


def write_bodies(photos: list[Path], folder: Path) -> list[Path]:
    """Write a multipart body for each photo; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    bodies = []
    for photo in photos:
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{photo.name}"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = folder / (photo.name + ".multipart")
        body.write_bytes(head.encode() + photo.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode())
        bodies.append(body)
    return bodies


def closed_loop(url: str, bodies: list[Path], callers: int, seconds: int, folder: Path) -> Load:
    """Load `url` with `callers` connections; each sends its next photo after the response to the last."""
    script = folder / "wrk.lua"
    script.write_text(_LUA % _BOUNDARY)
    cpu = _children_cpu_seconds()
    text = _run(
        ["wrk", "--threads", "1", "--connections", str(callers), "--duration", f"{seconds}s",
         "--timeout", "30s", "--latency", "--script", str(script), url],
        {"BODIES": ":".join(map(str, bodies))},
    )  # fmt: skip
    found = [line for line in text.splitlines() if line.startswith("JSON ")]
    if not found:
        raise LoadError(f"wrk printed no result. Check that the service answers: {text[-500:]}")
    result = json.loads(found[0].removeprefix("JSON "))
    good = result["requests"] - result["failed"]
    return Load(
        good / result["seconds"],
        result["p50"],
        result["p95"],
        result["p99"],
        result["failed"],
        1000 * (_children_cpu_seconds() - cpu) / max(1, good),
    )


def fixed_rate(url: str, body: Path, rate: float, seconds: int, folder: Path) -> Overload:
    """Send `rate` requests per second, evenly spaced, whatever the responses; the first seconds do not count.

    Each connection sends every two seconds; in the first two, each request opens a new connection.
    """
    log = folder / "h2load.tsv"
    log.unlink(missing_ok=True)
    _run(
        ["h2load", "--h1", "--clients", str(round(_PERIOD * rate)), "--rps", str(1 / _PERIOD),
         "--rate", str(max(1, round(rate * _RAMP_MS / 1000))), "--rate-period", f"{_RAMP_MS}ms",
         "--requests", str(round(rate * (seconds + _WARM_SECONDS))), "--data", str(body),
         "--header", f"content-type: multipart/form-data; boundary={_BOUNDARY}", "--log-file", str(log), url],
        {},
    )  # fmt: skip
    rows = np.loadtxt(log, dtype=np.int64, ndmin=2, usecols=(0, 1, 2))  # start and duration in microseconds
    if not len(rows):
        raise LoadError("h2load sent no request. Check that the service answers.")
    after = (rows[:, 0] - rows[:, 0].min()) / 1e6
    counted = (after >= _WARM_SECONDS) & (after < _WARM_SECONDS + seconds)
    statuses, milliseconds = rows[counted, 1], rows[counted, 2] / 1e3
    good = statuses // 100 == 2
    refused = milliseconds[statuses == _UNAVAILABLE]
    return Overload(
        offered_per_second=len(statuses) / seconds,
        accepted_per_second=float(good.sum()) / seconds,
        accepted_p50_ms=float(np.percentile(milliseconds[good], 50)) if good.any() else float("nan"),
        accepted_p99_ms=float(np.percentile(milliseconds[good], 99)) if good.any() else float("nan"),
        refused_share=float((statuses == _UNAVAILABLE).mean()),
        refused_p50_ms=float(np.percentile(refused, 50)) if len(refused) else 0.0,
        refused_p99_ms=float(np.percentile(refused, 99)) if len(refused) else 0.0,
        statuses={str(code): int((statuses == code).sum()) for code in np.unique(statuses)},
    )


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"{command[0]} failed: {done.stderr[-500:]}")
    return done.stdout
