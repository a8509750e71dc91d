"""The comparison of a candidate that has a share of the traffic with the release that has the rest."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from host.checks import request
from host.errors import RefusedError

FAILURES = ("internal", "overloaded", "deadline-exceeded", "not-ready")
"""Outcomes that are the service's fault, as in `monitoring/rules.yml`."""
SLOW_SECONDS = "0.5"
"""The objective for a response, as in `monitoring/rules.yml`."""
LOOKS = 10
"""How often a bake is judged, the end included."""
FALSE_ALARM = 0.01
"""Probability that an equal candidate is taken back: shared among all tests and looks (Bonferroni)."""
NOTICED = 0.95
RISE = 0.1
"""A bake proves something if it would notice, with probability `NOTICED`, that this share fails."""


@dataclass
class Counts:
    """What a container has counted; a difference of two is what it counted in between."""

    requests: int = 0
    failed: int = 0
    answered: int = 0
    slow: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    uncertain: int = 0

    def since(self, earlier: Counts) -> Counts:
        """Return what was counted since `earlier`."""
        return Counts(
            self.requests - earlier.requests,
            self.failed - earlier.failed,
            self.answered - earlier.answered,
            self.slow - earlier.slow,
            self.labels - earlier.labels,
            self.uncertain - earlier.uncertain,
        )


def counts(url: str, key: str) -> Counts:
    """Read the counters of the container at `url`.

    Raises:
        RefusedError: it does not show them.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    status, text = request(f"{url}/metrics", headers=headers)
    if status != 200:
        raise RefusedError(f"check 'canary' failed: {url}/metrics got status {status}.")
    found = Counts()
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        number = int(float(value)) if value[0].isdigit() else 0
        match name:
            case "classifier_requests_total":
                found.requests += number
                found.failed += number * any(f'outcome="{failure}"' in labels for failure in FAILURES)
            case "classifier_request_duration_seconds_count":
                found.answered = number
                found.slow += number
            case "classifier_request_duration_seconds_bucket" if f'le="{SLOW_SECONDS}"' in labels:
                found.slow -= number
            case "classifier_predictions_total":
                found.labels[labels] += number
            case "classifier_predictions_uncertain_total":
                found.uncertain = number
    return found


def more_often(k: int, n: int, other_k: int, other_n: int) -> float:
    """Return the probability of `k` or more events of `n`, if both sides have the same rate.

    Fisher's exact test, one-sided (R. A. Fisher, Statistical Methods for Research Workers, 5th ed., 1934):
    given all events of both sides, the number on one side follows a hypergeometric distribution.

    Args:
        k: Events of the candidate.
        n: Requests of the candidate.
        other_k: Events of the active release.
        other_n: Requests of the active release.
    """
    events, total = k + other_k, n + other_n

    whole = _log_choose(total, events)
    terms = (
        math.exp(_log_choose(n, x) + _log_choose(other_n, events - x) - whole)
        for x in range(k, min(n, events) + 1)
        if events - x <= other_n
    )
    return min(1.0, math.fsum(terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def differences(candidate: Counts, active: Counts, *, predictions: bool = True) -> list[str]:
    """Return in what the candidate is worse than the active release, or predicts otherwise, beyond chance.

    Args:
        candidate: What it counted.
        active: What the active release counted in the same time.
        predictions: Whether to compare what they predict; failures and latency are compared in any case.
    """
    mine, theirs = candidate.labels.total(), active.labels.total()
    tests = [
        ("fails", candidate.failed, candidate.requests, active.failed, active.requests),
        ("is slow", candidate.slow, candidate.answered, active.slow, active.answered),
    ]
    if predictions:
        tests.append(("is uncertain", candidate.uncertain, mine, active.uncertain, theirs))
    for labels in sorted({*candidate.labels, *active.labels}) if predictions else ():
        label = labels.partition('"')[2].rpartition('"')[0]
        tests.append((f"predicts {label}", candidate.labels[labels], mine, active.labels[labels], theirs))
    level = FALSE_ALARM / len(tests) / LOOKS
    return [
        f"it {what} in {k} of {n}, the active release in {other_k} of {other_n} (p = {p:.1g})"
        for what, k, n, other_k, other_n in tests
        if (p := more_often(k, n, other_k, other_n)) < level
    ]


def noticed(candidate: Counts, active: Counts) -> bool:
    """Report whether the requests suffice to notice a candidate that fails a share `RISE` more often."""
    n, other_n = candidate.requests, active.requests
    if not n or not other_n:
        return False
    tests = 3 + len({*candidate.labels, *active.labels})
    level = FALSE_ALARM / tests / LOOKS
    enough = bisect_left(range(n + 1), True, key=lambda k: more_often(k, n, active.failed, other_n) < level)
    rate = min(0.999, active.failed / other_n + RISE)
    missed = math.fsum(
        math.exp(_log_choose(n, k) + k * math.log(rate) + (n - k) * math.log(1 - rate)) for k in range(enough)
    )
    return missed <= 1 - NOTICED
