"""What rules and dashboard query, read from their files, and what of it an exposition lacks."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.tiny import ROOT

MONITORING = ROOT / "deploy/monitoring"
GROUPS = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
CASES = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

_OF_PROMETHEUS = {"up"}
_OF_THE_TARGET = {"job", "instance", "environment"}
"""Labels that Prometheus adds to every scraped series."""
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\b([a-zA-Z_][\w:]*)\b(?!\s*\()\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_NO_SELECTOR = re.compile(r"\[[^\]]*\]|\boffset\s+\w+|\b(?:and|or|unless|bool)\b")


@dataclass(frozen=True, order=True)
class Demand:
    """A metric that must exist, or a label of it, or a value of that label."""

    where: str
    """The rule, panel or test case that queries it."""
    metrics: tuple[str, ...]
    """One of these must have it."""
    label: str = ""
    value: str = ""

    def __str__(self) -> str:
        label = (
            f'{{{self.label}="{self.value}"}}' if self.value else f" by {self.label}" if self.label else ""
        )
        return f"{self.where}: {' or '.join(self.metrics)}{label}"


def expressions() -> Iterator[tuple[str, str, str]]:
    """Yield each expression of rules and dashboard: its place, the expression, and its text."""
    for rule in RULES:
        name = rule.get("alert") or rule["record"]
        yield name, rule["expr"], " ".join(rule.get("annotations", {}).values())
    board = json.loads((MONITORING / "grafana/dashboards/classifier.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target.get("legendFormat", "")
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"], annotation["titleFormat"]
    for variable in board["templating"]["list"]:
        query, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
        yield variable["name"], f"count by ({label}) ({query})", ""


@functools.cache
def demands() -> list[Demand]:
    """Return everything that rules, dashboard and the series of the rules' tests demand of the service."""
    found = {demand for where, text, written in expressions() for demand in _demands(where, text, written)}
    for case in CASES:
        for series in case["input_series"]:
            found |= set(_demands(case["name"], series["series"], ""))
    return sorted(found)


def _demands(where: str, expression: str, written: str) -> Iterator[Demand]:
    bare = _NO_SELECTOR.sub(" ", _GROUPING.sub(" ", expression))
    selectors = [
        selector for selector in _SELECTOR.findall(bare) if selector[0] not in RECORDED | _OF_PROMETHEUS
    ]
    for metric, matchers in selectors:
        yield Demand(where, (metric,))
        for label, values in _MATCHER.findall(matchers):
            if label not in _OF_THE_TARGET:
                # The label values of an info metric differ from one instance to the next.
                known = [] if metric.endswith("_info") else values.split("|")
                yield from (Demand(where, (metric,), label, value) for value in ["", *known])
    labels = set(re.findall(r"\w+", " ".join(_GROUPING.findall(expression))))
    labels |= set(re.findall(r"{{ *(?:\$labels\.)?(\w+)", written))
    if selectors:
        metrics = tuple(sorted({metric for metric, _ in selectors}))
        yield from (Demand(where, metrics, label) for label in labels - _OF_THE_TARGET)


def missing(exposition: str) -> list[Demand]:
    """Return the demands that the text of a `/metrics` does not meet."""
    there: set[tuple[str, str, str]] = set()
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            there.add((sample.name, "", ""))
            for label, value in sample.labels.items():
                there |= {(sample.name, label, ""), (sample.name, label, value)}
    return [
        demand
        for demand in demands()
        if not any((name, demand.label, demand.value) in there for name in demand.metrics)
    ]
