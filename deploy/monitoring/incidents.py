#!/usr/bin/env python3
"""`make incidents`: how soon each incident raises the right alert, and how often a quiet month raises one.

promtool evaluates the real rules on simulated series, one sample a minute. Writes `build/incidents.md`; exits
with 1 if an incident raises no alert, another page comes with it, or the quiet month pages.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPORT = HERE.parents[1] / "build" / "incidents.md"
MONTH_DAYS = 30
BEGIN = 120
"""Minutes of ordinary service before an incident."""

Series = dict[str, list[float | str]]


@dataclass
class Instance:
    """The series of one instance, minute by minute."""

    name: str
    environment: str = "production"
    generator: random.Random = field(default_factory=lambda: random.Random(1))
    counters: dict[str, float] = field(default_factory=dict)
    series: Series = field(default_factory=dict)
    started: float = 0.0

    def _key(self, metric: str, **labels: str) -> str:
        labels = {"job": "classifier", "environment": self.environment, "instance": self.name, **labels}
        return metric + "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"

    def restart(self, minute: int) -> None:
        """Start a new process: its counters begin at 0."""
        self.counters, self.started = {}, minute * 60.0

    def silent(self, minutes: int = 1, *, discovered: bool = True) -> None:
        """Let Prometheus get nothing: it marks the series stale."""
        for _ in range(minutes):
            for key, values in self.series.items():
                values.append(0 if key.startswith("up{") and discovered else "stale")

    def minute(
        self,
        requests: float,
        *,
        failing: float = 0.0,
        late: float = 0.0002,
        refused: float = 0.0,
        slow: float = 0.001,
        ready: int = 1,
        sha256: str = "1",
        live_accuracy: float = 0.991,
        differing: float = 0.008,
        uncertain: float = 0.007,
    ) -> None:
        """Add a minute: a number of requests, Poisson-distributed, and what becomes of them."""
        count = poisson(self.generator, requests)

        def part(n: int, share: float) -> int:
            return min(n, poisson(self.generator, n * share)) if share < 1 else n

        failed, full, slow_to_answer = part(count, failing), part(count, refused), part(count, late)
        answered = max(0, count - failed - full - slow_to_answer)
        for key, more in {
            self._key("classifier_requests_total", outcome="ok"): answered,
            self._key("classifier_requests_total", outcome="internal"): failed,
            self._key("classifier_requests_total", outcome="overloaded"): full,
            self._key("classifier_requests_total", outcome="deadline-exceeded"): slow_to_answer,
            self._key(
                "classifier_http_responses_total", route="/predict", method="POST", status="500"
            ): failed,
            self._key("classifier_rejected_total", reason="too-slow"): full,
            self._key("classifier_request_duration_seconds_count"): answered,
            self._key("classifier_request_duration_seconds_bucket", le="0.5"): answered
            - part(answered, slow),
            self._key("classifier_predictions_total", label="cat"): answered,
            self._key("classifier_predictions_uncertain_total"): part(answered, uncertain),
            self._key("classifier_shadow_total", outcome="agreed"): answered // 10,
            self._key("classifier_shadow_total", outcome="disagreed"): part(answered // 10, differing),
        }.items():
            self.counters[key] = self.counters.get(key, 0) + more
        now = {
            **self.counters,
            self._key("up"): 1,
            self._key("classifier_ready"): ready,
            self._key("classifier_model_info", sha256=sha256): 1,
            self._key("classifier_model_accuracy_ratio", bound="low"): 0.986,
            self._key("classifier_feedback_accuracy_ratio"): live_accuracy,
            self._key("classifier_feedback_window_labels"): 500,
            self._key("process_start_time_seconds"): self.started,
        }
        length = max((len(values) for values in self.series.values()), default=0)
        for key in {*self.series, *now}:
            values = self.series.setdefault(key, ["_"] * length)
            values.append(now.get(key, "stale"))


def poisson(generator: random.Random, mean: float) -> int:
    """Draw a number of events: by the waits in between, or for many of them by the normal approximation."""
    if mean > 50:
        return max(0, round(generator.gauss(mean, mean**0.5)))
    count, waited = 0, generator.expovariate(1.0)
    while waited < mean:
        count, waited = count + 1, waited + generator.expovariate(1.0)
    return count


Scene = Callable[[], list[Instance]]


def usual(*, minutes: int = BEGIN, requests: float = 300) -> list[Instance]:
    """Return two instances of production and one of staging after some ordinary minutes."""
    made = [
        Instance("a", generator=random.Random(1)),
        Instance("b", generator=random.Random(2)),
        Instance("s", "staging", generator=random.Random(3)),
    ]
    for _ in range(minutes):
        for instance in made:
            instance.minute(requests)
    return made


def going_on(minutes: int, faults: dict[str, dict[str, Any]], requests: float = 300) -> Scene:
    """Return an incident: the named instances get these faults for some minutes."""

    def scene() -> list[Instance]:
        instances = usual(requests=requests)
        for _ in range(minutes):
            for instance in instances:
                instance.minute(requests, **faults.get(instance.name, {}))
        return instances

    return scene


def vanishing(names: set[str], *, discovered: bool) -> Scene:
    """Return an incident: instances can no longer be scraped, or are no longer discovered."""

    def scene() -> list[Instance]:
        instances = usual()
        for instance in instances:
            for _ in range(60):
                if instance.name in names:
                    instance.silent(discovered=discovered)
                else:
                    instance.minute(300)
        return instances

    return scene


def burst() -> list[Instance]:
    """Return an incident: new instances fail everything until they are first scraped, and then die."""
    instances = usual()
    for number, generator in enumerate((4, 5)):
        new = Instance(f"new-{number}", generator=random.Random(generator))
        new.restart(BEGIN - 1)
        new.minute(900, failing=1.0)
        for values in new.series.values():
            values[:0] = ["_"] * BEGIN
        for _ in range(9):
            new.minute(0)
        instances.append(new)
    for instance in instances[:3]:
        for _ in range(10):
            instance.minute(300)
    return instances


BOTH = {"a", "b"}


def both(fault: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what both instances of production have."""
    return {"a": fault, "b": fault}


INCIDENTS: dict[str, tuple[str, Scene]] = {
    "an instance dies": ("ClassifierDown", vanishing({"a"}, discovered=True)),
    "discovery loses production": ("ClassifierAbsent", vanishing(BOTH, discovered=False)),
    "discovery loses everything": ("ClassifierAbsent", vanishing({*BOTH, "s"}, discovered=False)),
    "an instance is never ready": ("ClassifierNotReady", going_on(60, {"a": {"ready": 0}})),
    "a bad release fails 5 % of requests": (
        "ClassifierErrorBudgetBurn",
        going_on(60, both({"failing": 0.05})),
    ),
    "new instances fail 1,800 requests before their first scrape": ("ClassifierErrorBudgetBurn", burst),
    "an outage at 24 requests an hour": (
        "ClassifierErrorBudgetBurn",
        going_on(120, both({"failing": 1.0}), requests=0.2),
    ),
    "overload: a tenth is refused": (
        "ClassifierErrorBudgetBurn",
        going_on(60, both({"refused": 0.1})),
    ),
    "a third of the responses is slow": (
        "ClassifierLatencyBudgetBurn",
        going_on(60, both({"slow": 0.33})),
    ),
    "0.5 % of requests fail, for days": (
        "ClassifierErrorBudgetSlowBurn",
        going_on(600, both({"failing": 0.005}), requests=60),
    ),
    "a rollout stops half way": ("ClassifierModelMismatch", going_on(60, {"a": {"sha256": "2"}})),
    "callers label one answer in twelve as wrong": (
        "ClassifierLiveAccuracyLow",
        going_on(60, {"a": {"live_accuracy": 0.92}}),
    ),
    "the shadow disagrees on a tenth": (
        "ClassifierShadowDiffers",
        going_on(120, both({"differing": 0.1})),
    ),
    "staging fails 5 % of requests": ("ClassifierErrorBudgetBurn", going_on(60, {"s": {"failing": 0.05}})),
}


def quiet_month() -> list[Instance]:
    """Return 30 days: day and night, deploys every third day, missed scrapes, failures within the budget."""
    instances = usual(minutes=0)
    for minute in range(MONTH_DAYS * 24 * 60):
        hour = minute / 60 % 24
        requests = 0.5 if hour < 6 else 60.0
        for number, instance in enumerate(instances):
            deployed = minute % (3 * 24 * 60) == 12 * 60 + 3 * number
            if deployed:
                instance.restart(minute)
            if deployed or minute in (7_000, 20_000):
                instance.silent()
            else:
                instance.minute(requests if instance.environment == "production" else requests / 10)
    return instances


def evaluated(
    instances: list[Instance], questions: list[tuple[str, int]]
) -> list[tuple[dict[str, str], float]]:
    """Evaluate the rules and then each query at its minute; return labels and value of every result.

    Raises:
        SystemExit: promtool failed.
    """
    test = {
        "rule_files": [str(HERE / "rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": key, "values": notation(values)}
                    for instance in instances
                    for key, values in instance.series.items()
                ],
                "promql_expr_test": [
                    {"expr": query, "eval_time": f"{minute}m", "exp_samples": []}
                    for query, minute in questions
                ],
            }
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.yml"
        path.write_text(json.dumps(test))  # YAML is a superset of JSON
        done = subprocess.run(
            ["promtool", "test", "rules", path], capture_output=True, text=True, check=False
        )
    output = done.stdout + done.stderr
    if "err:" in output or ("SUCCESS" not in output and "got:" not in output):
        raise SystemExit(f"error: promtool failed: {output[-2000:]}")
    return [
        (dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
        for labels, value in re.findall(r"\{(alertname=[^}]*)\} ([^\s,]+)", output)
    ]


_FIRING = 'ALERTS{alertstate="firing",alertname!="ClassifierWatchdog"}'


def first_firing(instances: list[Instance]) -> dict[tuple[str, str, str], int]:
    """Return the minute at which each alert first fires, by name, severity and environment."""
    length = max(len(values) for instance in instances for values in instance.series.values())
    found: dict[tuple[str, str, str], int] = {}
    query = f"min_over_time(timestamp({_FIRING})[{length}m:1m])"
    for labels, seconds in evaluated(instances, [(query, length - 1)]):
        key = labels["alertname"], labels["severity"], labels.get("environment", "")
        minute = round(seconds / 60)
        found[key] = min(minute, found.get(key, minute))
    return found


def firing_hours(instances: list[Instance]) -> Counter[str]:
    """Return for how many hours of the month each alert fired, in any part of them."""
    found: Counter[str] = Counter()
    hours = [(f"count_over_time({_FIRING}[1h])", 60 * hour) for hour in range(1, MONTH_DAYS * 24)]
    for labels, _ in evaluated(instances, hours):
        found[f"{labels['alertname']} ({labels['severity']})"] += 1
    return found


def notation(values: list[float | str]) -> str:
    """Return values in promtool's notation, with runs of the same value shortened."""
    words: list[str] = []
    index = 0
    while index < len(values):
        run = 1
        while index + run < len(values) and values[index + run] == values[index]:
            run += 1
        value = values[index]
        text = value if isinstance(value, str) else f"{value:g}" if value != int(value) else str(int(value))
        if text == "stale":
            words += ["stale"] + ([f"_x{run - 1}"] if run > 1 else [])
        elif run > 2:
            words.append(f"{text}x{run - 1}" if text != "_" else f"_x{run}")
        else:
            words += [text] * run
        index += run
    return " ".join(words)


def main() -> int:
    """Simulate; return 1 if an incident or the quiet month is not as it should be."""
    if not shutil.which("promtool"):
        print("error: promtool is not installed. On Debian: apt install prometheus", file=sys.stderr)
        return 2
    lines = ["| incident | alert | severity | after | other pages |", "| --- | --- | --- | --- | --- |"]
    wrong = 0
    for what, (right, scene) in INCIDENTS.items():
        found = first_firing(scene())
        hits = {key: minute for key, minute in found.items() if key[0] == right}
        others = sorted({name for name, severity, _ in found if severity == "page" and name != right})
        early = [name for (name, _, _), minute in found.items() if minute < BEGIN]
        wrong += not hits or bool(others) or bool(early)
        severity = next((severity for _, severity, _ in hits), "none")
        after = f"{min(hits.values()) - BEGIN} min" if hits else "**never**"
        where = "" if {key[2] for key in hits} != {"staging"} else " (staging: a ticket)"
        lines.append(f"| {what} | {right} | {severity}{where} | {after} | {', '.join(others) or 'none'} |")
        print(lines[-1], flush=True)
    if "--month" in sys.argv:
        print(f"a quiet month: {MONTH_DAYS} days (some minutes) …", flush=True)
        found_hours = firing_hours(quiet_month())
        wrong += any("(page)" in name for name in found_hours)
        shown = ", ".join(f"{name} in {hours} hours" for name, hours in sorted(found_hours.items())) or "none"
        lines += ["", f"In a simulated quiet month of {MONTH_DAYS} days, alerts: {shown}."]
        print(lines[-1])
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
