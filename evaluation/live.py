"""`python -m evaluation.live --url … --labelled DIR`: is the deployed service right?

Sends a labelled folder (one sub-folder for each class) to a running service with bounded
concurrency, and reports accuracy with its interval, calibration, the confusion matrix, latency
percentiles and every error by type. Exits 1 if a gate of `configs/gates.yaml` fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from evaluation import gate, metrics, report
from evaluation.machine import progress

KNOWN_GATES: Final = {
    "accuracy_min": "accuracy.value",
    "ece_max": "ece.value",
    "failed_share_max": "failed_share",
    "latency_p50_ms_max": "latency_ms.p50",
    "latency_p99_ms_max": "latency_ms.p99",
}
_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_ATTEMPTS: Final = 5
_TIMEOUT_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 10.0


class LiveError(Exception):
    """The evaluation cannot be made; the text names the cause and the next step."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service said to one photo."""

    path: Path
    label: str
    probabilities: dict[str, float] | None
    """None if no prediction came."""
    error: str
    """Empty, or the problem's type, or the kind of connection failure."""
    milliseconds: float
    """From sending to the whole answer, of the last attempt."""
    attempts: int


def find_photos(folder: Path) -> list[tuple[Path, str]]:
    """Photos below `folder` with their labels, which are the sub-folders' names in lower case.

    Raises:
        LiveError: no such folder, or no labelled photo in it.
    """
    if not folder.is_dir():
        raise LiveError(f"There is no folder {folder}. Name one with a sub-folder for each class.")
    found = [
        (path, path.relative_to(folder).parts[0].lower())
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES and len(path.relative_to(folder).parts) > 1
    ]
    if not found:
        raise LiveError(
            f"{folder} has no labelled photos: expected {folder}/<label>/<photo>, such as cat/1.jpg."
        )
    return found


async def ask(client: httpx.AsyncClient, path: Path, label: str) -> Reply:
    """Send one photo; try again where the service says so or the connection fails."""
    body = await asyncio.to_thread(path.read_bytes)
    error, began = "", time.perf_counter()
    for attempt in range(1, _ATTEMPTS + 1):
        began = time.perf_counter()
        wait = 0.2 * 2**attempt
        try:
            response = await client.post("/predict", files={"file": (path.name, body)})
        except httpx.TransportError as failure:
            error = type(failure).__name__
        else:
            elapsed_ms = 1000 * (time.perf_counter() - began)
            if response.is_success:
                return Reply(path, label, response.json()["probabilities"], "", elapsed_ms, attempt)
            error = _problem_type(response)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return Reply(path, label, None, error, elapsed_ms, attempt)
            retry_after = response.headers.get("Retry-After", "")
            wait = float(retry_after) if retry_after.isdecimal() else wait
        if attempt < _ATTEMPTS:
            await asyncio.sleep(min(wait, _LONGEST_WAIT_SECONDS))
    return Reply(path, label, None, error, 1000 * (time.perf_counter() - began), _ATTEMPTS)


def _problem_type(response: httpx.Response) -> str:
    try:
        return str(response.json()["type"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


async def ask_all(
    url: str, photos: list[tuple[Path, str]], concurrency: int
) -> tuple[dict[str, Any], list[Reply], float]:
    """Send every photo; return what `/health` says, the replies in order and the wall time in seconds.

    Raises:
        LiveError: the service cannot be reached or is not ready.
    """
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, limits=limits) as client:
        health = await _health(client, url)
        room = asyncio.Semaphore(concurrency)
        began = time.perf_counter()
        with progress("evaluate-live", len(photos), "photos") as bar:

            async def one(path: Path, label: str) -> Reply:
                async with room:
                    reply = await ask(client, path, label)
                bar.update()
                return reply

            replies = await asyncio.gather(*(one(path, label) for path, label in photos))
        return health, list(replies), time.perf_counter() - began


async def _health(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        response = await client.get("/health")
        content = response.json()
    except (httpx.TransportError, httpx.UnsupportedProtocol, ValueError) as error:
        raise LiveError(
            f"{url}/health does not answer ({type(error).__name__}). Is the service running there? "
            "Start one with 'make serve'."
        ) from error
    if not response.is_success:
        reason = content.get("reason", "") if isinstance(content, dict) else ""
        raise LiveError(f"The service at {url} is not ready: {reason or response.status_code}.")
    return dict(content)


def summarise(health: dict[str, Any], replies: list[Reply], seconds: float) -> dict[str, Any]:
    """All figures of one evaluation, ready for JSON."""
    answered = [reply for reply in replies if reply.probabilities is not None]
    failed = [reply for reply in replies if reply.probabilities is None]
    figures: dict[str, Any] = {
        "model": health.get("model", {}),
        "photos": len(replies),
        "answered": len(answered),
        "failed_share": len(failed) / len(replies),
        "errors": dict(Counter(reply.error for reply in failed)),
        "retries": sum(reply.attempts - 1 for reply in replies),
        "throughput_per_second": len(replies) / seconds,
        "latency_ms": _percentiles([reply.milliseconds for reply in answered]),
    }
    if answered:
        labels, probabilities, targets = as_arrays(answered)
        figures |= metrics.evaluate(probabilities, targets, labels)
    return figures


def as_arrays(answered: list[Reply]) -> tuple[list[str], metrics.Floats, metrics.Ints]:
    """Labels, probabilities `f[N,K]` and targets `i[N]` of replies with a prediction.

    Raises:
        LiveError: a folder is named for a class that the service does not know.
    """
    labels = sorted(answered[0].probabilities or {})
    unknown = sorted({reply.label for reply in answered} - set(labels))
    if unknown:
        raise LiveError(
            f"The service knows {', '.join(labels)}, and a folder is named {unknown[0]!r}. "
            "Name the folders for the classes."
        )
    rows = [[(reply.probabilities or {})[label] for label in labels] for reply in answered]
    return labels, np.array(rows), np.array([labels.index(reply.label) for reply in answered])


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 90, 95, 99)}


def as_markdown(figures: dict[str, Any], verdicts: list[gate.Verdict]) -> str:
    """The summary for a person or a CI step."""
    model = figures["model"]
    lines = [
        f"### Live evaluation of {model.get('name', '?')} {model.get('version', '?')}",
        "",
        "| figure | value | 95 % interval | n |",
        "| --- | --- | --- | --- |",
    ]
    measured = [name for name in ("accuracy", "ece", "log_loss", "roc_auc") if name in figures]
    lines += [f"| {name} | {' | '.join(metrics.show(figures[name]))} |" for name in measured]
    for name, value in figures["latency_ms"].items():
        lines.append(f"| latency {name} | {value:.1f} ms | | {figures['answered']} |")
    lines.append(f"| throughput | {figures['throughput_per_second']:.1f} photos/s | | {figures['photos']} |")
    errors = ", ".join(f"{kind}: {count}" for kind, count in figures["errors"].items()) or "none"
    lines += ["", f"Errors: {errors}; retries: {figures['retries']}.", "", "```", gate.show(verdicts), "```"]
    return "\n".join(lines)


def _write(
    out: Path, figures: dict[str, Any], summary: str, replies: list[Reply], verdicts: list[gate.Verdict]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    answered = [reply for reply in replies if reply.probabilities is not None]
    if answered:
        labels, probabilities, targets = as_arrays(answered)
        photos = [reply.path for reply in answered]
        table = metrics.confusion(probabilities, targets)
        for name, figure in {
            "confusion_matrix": report.confusion_matrix(table, labels, "live"),
            "reliability": report.reliability_diagram(probabilities, targets, "live"),
            "worst_mistakes": report.worst_mistakes(photos, probabilities, targets, labels),
        }.items():
            report.save(figure, out / f"{name}.png")
    (out / "summary.md").write_text(summary + "\n", encoding="utf-8")
    content = figures | {"gates": {verdict.gate: verdict.passed for verdict in verdicts}}
    (out / "live.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Evaluate and judge; return 0 if every gate passes, 1 if one fails, 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.live", description=__doc__)
    parser.add_argument("--url", required=True, help="address of the service, as http://127.0.0.1:8000")
    parser.add_argument("--labelled", type=Path, required=True, help="folder with a sub-folder a class")
    parser.add_argument("--concurrency", type=int, default=8, help="photos under way at once")
    parser.add_argument("--out", type=Path, default=Path("reports/live"))
    parser.add_argument("--gates", type=Path, default=gate.GATES)
    options = parser.parse_args(arguments)
    if options.concurrency < 1:
        parser.error("--concurrency must be at least 1")
    try:
        gates = gate.read_gates("live", KNOWN_GATES, options.gates)
        photos = find_photos(options.labelled)
        health, replies, seconds = asyncio.run(ask_all(options.url.rstrip("/"), photos, options.concurrency))
        figures = summarise(health, replies, seconds)
    except (LiveError, gate.GateError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written.", file=sys.stderr)
        return 130
    verdicts = gate.judge(figures, gates, KNOWN_GATES)
    summary = as_markdown(figures, verdicts)
    _write(options.out, figures, summary, replies, verdicts)
    print(summary)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
