"""`python -m evaluation live --url …`: is the deployed service right?

Labelled photos in, of a folder or of the split `production`; a `Live` record and its verdicts out, which
`evaluation.service.report` writes.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from common.cores import map_on_cores
from common.manifest import labelled, read_split
from common.photos import find_labelled
from evaluation import ledger
from evaluation.figures import gates, intervals, metrics
from evaluation.ledger import Model
from evaluation.service import report
from evaluation.service.client import ask_all
from evaluation.service.replies import Health, Reply, as_arrays, stages_ms, with_prediction
from evaluation.service.results import AgainstTest, Consistency, Far, Live
from serving.contract.answer import Refusal
from serving.contract.artifact import PROBE_TOLERANCE
from serving.runtime.handler import load_handler

_PERCENTILES: Final = (50, 90, 95, 99)
OBJECTIVE_MS: Final = 500
"""The latency objective of `deploy/monitoring/rules.yml`."""
_NOTEWORTHY: Final = 10
"""Photos listed with the largest differences from the offline handler."""


def summarise(health: Health, replies: list[Reply], seconds: float) -> Live:
    """The figures of one evaluation that need no artefact.

    Args:
        health: The body of `/health`.
        replies: One for each photo.
        seconds: From the first request to the last reply.

    Raises:
        LiveError: a photo is labelled as a class that the service does not know.
    """
    answered = with_prediction(replies)
    failed = [reply for reply in replies if reply.probabilities is None]
    measured = against = None
    if answered:
        labels, probabilities, targets = as_arrays(answered)
        measured = metrics.evaluate(probabilities, targets, labels)
        test = health.metrics.get("accuracy")
        if test:
            difference = intervals.difference(measured.accuracy, test)
            against = AgainstTest(test.value, test.n, health.measured_on, difference)
    slow = sum(reply.probabilities is None or reply.milliseconds > OBJECTIVE_MS for reply in replies)
    return Live(
        model=health.model,
        deployment=health.deployment,
        photos=len(replies),
        answered=len(answered),
        failed_share=len(failed) / len(replies),
        slow_share=intervals.wilson(slow, len(replies)),
        errors=dict(Counter(reply.error for reply in failed)),
        retries=sum(reply.attempts - 1 for reply in replies),
        throughput_per_second=len(replies) / seconds,
        latency_ms=percentiles([reply.milliseconds for reply in answered]),
        service_ms={stage: percentiles(values) for stage, values in stages_ms(answered).items()},
        measured=measured,
        against_test=against,
    )


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p95 and p99; empty without values."""
    if not values:
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in _PERCENTILES}


def compare_offline(model: Path, health: Health, replies: list[Reply]) -> Consistency:
    """Send the same bytes through the offline handler, and compare the predictions.

    Raises:
        ArtifactError: the artefact cannot be loaded.
    """
    handler = load_handler(model)
    answered = with_prediction(replies)

    def away(reply: Reply) -> tuple[float, bool]:
        answer = handler.handle([{"body": reply.path.read_bytes()}])[0]
        live = reply.probabilities or {}
        if isinstance(answer, Refusal) or answer.probabilities.keys() != live.keys():
            return 1.0, True
        far = max(abs(value - live[label]) for label, value in answer.probabilities.items())
        return far, max(live, key=lambda label: live[label]) != answer.prediction

    found = map_on_cores(away, answered, "offline handler")
    largest = max((far for far, _ in found), default=0.0)
    allowed = PROBE_TOLERANCE[handler.artifact.card.precision]
    order = sorted(range(len(found)), key=lambda i: -found[i][0])[:_NOTEWORTHY]
    return Consistency(
        expected_sha256=handler.artifact.sha256,
        same_model=float(health.model.get("sha256") == handler.artifact.sha256),
        photos=len(found),
        largest_difference=largest,
        allowed_difference=allowed,
        times_allowed=largest / allowed if found else None,
        other_answers=sum(other for _, other in found) if found else None,
        farthest=[Far(str(answered[i].path), found[i][0]) for i in order if found[i][0] > 0],
    )


def main(options: argparse.Namespace) -> int:
    """Evaluate and judge; return 0 if every gate passes, 1 if one fails, 3 if the photos cannot tell."""
    limits = gates.read_gates("live", Live, options.gates)
    consistency = gates.read_gates("consistency", Consistency, options.gates) if options.model else None
    rows = read_split(options.manifest, options.split) if options.split else None
    photos = find_labelled(options.labelled) if rows is None else labelled(rows, options.raw)
    health, replies, seconds = asyncio.run(ask_all(options.url.rstrip("/"), photos, options.concurrency))
    if rows is not None:
        ledger.record("live", options.split, [msgspec.convert(health.model, Model)], rows)
    live = summarise(health, replies, seconds)
    verdicts = limits.judge(live)
    if consistency:
        same = compare_offline(options.model, health, replies)
        live = msgspec.structs.replace(live, consistency=same)
        verdicts += consistency.judge(same)
    print(report.write(options.out, live, replies, verdicts))
    least = intervals.least_photos(limits.limits.get("accuracy_min", 0.0))
    if len(replies) < least:
        print(
            f"\nEven without a mistake, the limit accuracy_min needs {least} photos, and these are "
            f"{len(replies)}. Label more."
        )
    print(f"\n{options.out / 'report.html'} shows the pictures.")
    return gates.overall(verdicts)
