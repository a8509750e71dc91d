"""`python -m evaluation live --url … --labelled DIR`: is the deployed service right?

Sends labelled photos (a folder with a sub-folder a class, or a CSV with columns path and label) to a running
service with bounded concurrency. Reports accuracy with its interval, calibration, latency by stage and every
error by type; compares the accuracy with that of the model's test split and, given the artefact, every answer
with the offline handler's. Exits 1 if a gate of `configs/gates.yaml` fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.cores import map_on_cores
from common.errors import UserError
from common.photos import find_labelled
from evaluation.figures import metrics, pages, pictures
from evaluation.release import gates
from evaluation.service.client import LiveError, Reply, ask_all
from serving.contract.answer import Refusal
from serving.contract.artifact import PROBE_TOLERANCE
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.runtime.torchscript import one_thread

KNOWN_GATES: Final = {
    "accuracy_min": "accuracy.value",
    "ece_max": "ece.value",
    "failed_share_max": "failed_share",
    "latency_p50_ms_max": "latency_ms.p50",
    "latency_p99_ms_max": "latency_ms.p99",
    "points_under_test_max": "against_test.points_under",
}
KNOWN_CONSISTENCY_GATES: Final = {
    "same_model_min": "consistency.same_model",
    "times_allowed_max": "consistency.times_allowed",
    "other_answers_max": "consistency.other_answers",
}
_PERCENTILES: Final = (50, 90, 95, 99)
_NOTEWORTHY: Final = 10
"""Photos listed for the largest differences from the offline handler."""


def summarise(health: dict[str, Any], replies: list[Reply], seconds: float) -> dict[str, Any]:
    """All figures of one evaluation, ready for JSON."""
    answered = [reply for reply in replies if reply.probabilities is not None]
    failed = [reply for reply in replies if reply.probabilities is None]
    figures: dict[str, Any] = {
        "model": health.get("model", {}),
        "deployment": health.get("deployment", ""),
        "photos": len(replies),
        "answered": len(answered),
        "failed_share": len(failed) / len(replies),
        "errors": dict(Counter(reply.error for reply in failed)),
        "retries": sum(reply.attempts - 1 for reply in replies),
        "throughput_per_second": len(replies) / seconds,
        "latency_ms": percentiles([reply.milliseconds for reply in answered]),
        "service_ms": {stage: percentiles(values) for stage, values in stages_ms(answered).items() if values},
    }
    if answered:
        labels, probabilities, targets = as_arrays(answered)
        figures |= metrics.evaluate(probabilities, targets, labels)
        test = health.get("metrics", {}).get("accuracy")
        if test:
            figures["against_test"] = against_test(figures["accuracy"], test)
    return figures


def as_arrays(answered: list[Reply]) -> tuple[list[str], metrics.Floats, metrics.Ints]:
    """Labels, probabilities `f[N,K]` and targets `i[N]` of replies with a prediction.

    Raises:
        LiveError: a photo is labelled as a class that the service does not know.
    """
    labels = sorted(answered[0].probabilities or {})
    unknown = sorted({reply.label for reply in answered} - set(labels))
    if unknown:
        raise LiveError(
            f"The service knows {', '.join(labels)}, and a label is {unknown[0]!r}. "
            "Name the folders, or the labels in the table, for the classes."
        )
    rows = [[(reply.probabilities or {})[label] for label in labels] for reply in answered]
    return labels, np.array(rows), np.array([labels.index(reply.label) for reply in answered])


def stages_ms(answered: list[Reply]) -> dict[str, list[float]]:
    """Milliseconds of each photo by stage of the service, in the stages' order."""
    names = dict.fromkeys(name for reply in answered for name in reply.stages_ms)
    return {name: [r.stages_ms[name] for r in answered if name in r.stages_ms] for name in names}


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p95 and p99; nothing of nothing."""
    if not values:
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in _PERCENTILES}


def against_test(live: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """Live accuracy against the test split's: the difference with its interval, and what it says.

    "worse": the whole interval lies below 0. "consistent": it ends less than two points below 0.
    Otherwise there are too few photos to tell.
    """
    difference = metrics.difference(
        metrics.wilson(round(live["value"] * live["n"]), live["n"]),
        metrics.wilson(round(test["value"] * test["n"]), test["n"]),
    )
    if difference.high < 0:
        verdict = "worse"
    elif difference.low > -metrics.TOLERATED_DROP:
        verdict = "consistent"
    else:
        verdict = "too few photos to tell"
    return {
        "verdict": verdict,
        "test_accuracy": test["value"],
        "test_n": test["n"],
        "difference": difference.as_dict(),
        "points_under": max(0.0, -100 * difference.high),
    }


def compare_offline(model: Path, health: dict[str, Any], replies: list[Reply]) -> dict[str, Any]:
    """The same bytes through the offline handler: how far the service's answers are from its.

    Raises:
        ServingError: the artefact cannot be loaded.
    """
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(model))
    answered = [reply for reply in replies if reply.probabilities is not None]

    def away(reply: Reply) -> tuple[float, bool]:
        answer = handler.handle([{"body": reply.path.read_bytes()}])[0]
        assert reply.probabilities is not None  # noqa: S101 (those without were left out)
        if isinstance(answer, Refusal) or answer.probabilities.keys() != reply.probabilities.keys():
            return 1.0, True
        live = reply.probabilities
        far = max(abs(value - live[label]) for label, value in answer.probabilities.items())
        return far, max(live, key=lambda label: live[label]) != answer.prediction

    found = map_on_cores(away, answered, "offline handler", initializer=one_thread)
    largest = max((far for far, _ in found), default=0.0)
    allowed = PROBE_TOLERANCE[handler.artifact.card.precision]
    order = sorted(range(len(found)), key=lambda i: -found[i][0])[:_NOTEWORTHY]
    return {
        "expected_sha256": handler.artifact.sha256,
        "same_model": float(health.get("model", {}).get("sha256") == handler.artifact.sha256),
        "photos": len(found),
        "largest_difference": largest,
        "allowed_difference": allowed,
        "times_allowed": largest / allowed,
        "other_answers": sum(other for _, other in found),
        "farthest": [
            {"path": str(answered[i].path), "difference": found[i][0]} for i in order if found[i][0] > 0
        ],
    }


def as_markdown(figures: dict[str, Any], verdicts: list[gates.Verdict]) -> str:
    """The summary for a person or a CI step."""
    model = figures["model"]
    lines = [
        f"### Live evaluation of {model.get('name', '?')} {model.get('version', '?')}",
        "",
        "| figure | value | 95 % interval | n |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(row)} |" for row in pages.measured(figures)]
    for name, value in figures["latency_ms"].items():
        lines.append(f"| latency {name} | {value:.1f} ms | | {figures['answered']} |")
    for stage, values in figures["service_ms"].items():
        text = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
        lines.append(f"| in the service, {stage} | {text} ms | | {figures['answered']} |")
    lines.append(f"| throughput | {figures['throughput_per_second']:.1f} photos/s | | {figures['photos']} |")
    errors = ", ".join(f"{kind}: {count}" for kind, count in figures["errors"].items()) or "none"
    lines += ["", f"Errors: {errors}; retries: {figures['retries']}.", "", *sentences(figures)]
    lines += ["", "```", gates.show(verdicts), "```"]
    return "\n".join(lines)


def sentences(figures: dict[str, Any]) -> list[str]:
    """What the comparisons with the test split and with the offline handler say."""
    lines = []
    if test := figures.get("against_test"):
        low, high = (100 * test["difference"][key] for key in ("low", "high"))
        lines.append(
            f"Against the model's test split ({test['test_accuracy']:.2%}, n={test['test_n']}): "
            f"**{test['verdict']}**; the difference is between {low:+.2f} and {high:+.2f} points."
        )
    if same := figures.get("consistency"):
        model = "the expected one" if same["same_model"] else "NOT the expected one"
        lines.append(
            f"Against the offline handler (n={same['photos']}): {same['other_answers']} other answers; the "
            f"largest difference of a probability is {same['largest_difference']:.1e}, and the probe of this "
            f"artefact is allowed {same['allowed_difference']:g}. The served model is {model} "
            f"({same['expected_sha256'][:12]})."
        )
    return lines


def _write(
    out: Path, figures: dict[str, Any], summary: str, replies: list[Reply], verdicts: list[gates.Verdict]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    answered = [reply for reply in replies if reply.probabilities is not None]
    drawn = {}
    if answered:
        labels, probabilities, targets = as_arrays(answered)
        photos = [reply.path for reply in answered]
        table = metrics.confusion(probabilities, targets)
        drawn = {
            "confusion_matrix": pictures.confusion_matrix(table, labels, "live"),
            "reliability": pictures.reliability_diagram(probabilities, targets, "live"),
            "latency": pictures.latency([reply.milliseconds for reply in answered], stages_ms(answered)),
        }
        if (probabilities.argmax(1) != targets).any():
            drawn["worst_mistakes"] = pictures.worst_mistakes(photos, probabilities, targets, labels)
        for left in set(pages.TITLES) - set(drawn):
            (out / f"{left}.png").unlink(missing_ok=True)  # of an evaluation before this one
        for name, figure in drawn.items():
            pictures.save(figure, out / f"{name}.png")
    (out / "summary.md").write_text(summary + "\n", encoding="utf-8")
    content = figures | {"gates": {verdict.gate: verdict.passed for verdict in verdicts}}
    (out / "live.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = pages.live(figures, verdicts, sentences(figures), [out / f"{name}.png" for name in drawn])
    (out / "report.html").write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Evaluate and judge; return 0 if every gate passes, 1 if one fails, 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m evaluation live", description=__doc__)
    parser.add_argument("--url", required=True, help="address of the service, as http://127.0.0.1:8000")
    parser.add_argument(
        "--labelled", type=Path, required=True, help="folder with a sub-folder a class, or CSV: path,label"
    )
    parser.add_argument("--model", type=Path, help="the artefact that should be served, to compare with")
    parser.add_argument("--concurrency", type=int, default=8, help="photos under way at once")
    parser.add_argument("--out", type=Path, default=Path("reports/live"))
    parser.add_argument("--gates", type=Path, default=gates.GATES)
    options = parser.parse_args(arguments)
    if options.concurrency < 1:
        parser.error("--concurrency must be at least 1")
    try:
        limits = gates.read_gates("live", KNOWN_GATES, options.gates)
        known = KNOWN_GATES
        if options.model:
            limits |= gates.read_gates("consistency", KNOWN_CONSISTENCY_GATES, options.gates)
            known = known | KNOWN_CONSISTENCY_GATES
        photos = find_labelled(options.labelled)
        health, replies, seconds = asyncio.run(ask_all(options.url.rstrip("/"), photos, options.concurrency))
        figures = summarise(health, replies, seconds)
        if options.model:
            figures["consistency"] = compare_offline(options.model, health, replies)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written.", file=sys.stderr)
        return 130
    verdicts = gates.judge(figures, limits, known)
    summary = as_markdown(figures, verdicts)
    _write(options.out, figures, summary, replies, verdicts)
    print(summary)
    print(f"\n{options.out / 'report.html'} has the pictures.")
    return 0 if all(verdict.passed for verdict in verdicts) else 1
