"""Rules and dashboard query only what the running service exposes.

The queries are read from the files, the metrics from the `/metrics` of a service that has produced each
outcome. Further tests change the code and prove that the check notices.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import prometheus_client
import pytest

from serving.contract.reference import make_reference, measure
from serving.runtime import torchscript
from serving.runtime.handler import ImageClassifierHandler
from serving.settings import Settings
from tests import tiny
from tests.conftest import Client, running
from tests.deploy.promql import CASES, RECORDED, RULES, Demand, demands, expressions, missing
from tests.pictures import encode, scene

ALERTS = [rule for rule in RULES if "alert" in rule]
JPEG = encode(scene())
Stage = Callable[..., Any]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One worker, a queue for one request, and a model with a drift reference."""
    path = tiny.write_artifact(tmp_path_factory.mktemp("monitored") / "model.pt")
    network, loaded = torchscript.load(path)
    photo = measure(scene_pixels(), 64, 64, [0.5, 0.5], 0.1)
    card = msgspec.structs.replace(loaded.card, reference=make_reference([photo] * 20, 2))
    torchscript.save(path, network, card, loaded.probe)
    return Settings(model=str(path), workers=1, queue_size=1, deadline_seconds=1.0, drift_window=10)


def scene_pixels() -> Any:
    """`u8[3,64,64]`."""
    import numpy as np

    return np.asarray(scene(64, 64)).transpose(2, 0, 1)


@contextmanager
def replaced(stage: str, make: Callable[[Stage], Stage]) -> Iterator[None]:
    """Replace a stage of the handler by the result of `make`, which gets the original."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageClassifierHandler, stage, make(getattr(ImageClassifierHandler, stage)))
        yield


@contextmanager
def held(stage: str) -> Iterator[threading.Event]:
    """Make a stage of the handler wait until the event is set."""
    go = threading.Event()

    def make(original: Stage) -> Stage:
        def waiting(*arguments: object) -> object:
            go.wait(20)
            return original(*arguments)

        return waiting

    with replaced(stage, make):
        try:
            yield go
        finally:
            go.set()


def failing(_: Stage) -> Stage:
    """Return a stage that raises an unexpected exception."""

    def broken(*_: object) -> None:
        raise RuntimeError

    return broken


def until(client: Client, name: str, value: float) -> None:
    """Wait until a metric without labels has a value."""
    deadline = time.monotonic() + 20
    while f"\n{name} {value}\n" not in client.get("/metrics").text:
        assert time.monotonic() < deadline, name
        time.sleep(0.005)


@pytest.fixture(scope="module")
def exposition(settings: Settings) -> str:
    """What Prometheus scrapes from a service that has produced each outcome."""

    def ask(client: Client, content: bytes = JPEG) -> None:
        client.post("/predict", content=content)

    with held("initialize") as go, running(settings, until="starting") as client:
        ask(client)  # not ready
        go.set()
        until(client, "classifier_ready", 1.0)
        for content in (JPEG, b"", b"no photo", JPEG[:-300]):
            ask(client, content)
        with replaced("inference", failing):
            ask(client)
        with held("inference"):
            computed = threading.Thread(target=ask, args=(client,))
            computed.start()
            until(client, "classifier_in_flight", 1.0)
            queued = threading.Thread(target=ask, args=(client,))
            queued.start()
            until(client, "classifier_queue_depth", 1.0)
            ask(client)  # one too many: rejected at once
            computed.join()  # both exceed their deadline
            queued.join()
        return client.get("/metrics").text


def test_the_service_exposes_all_that_rules_and_dashboard_query(exposition: str):
    """Names, labels, label values and bucket edges, also of the series in the rules' tests."""
    assert [str(demand) for demand in missing(exposition)] == []
    assert missing("") == demands()


@pytest.mark.parametrize("expression", list(expressions()), ids=lambda e: f"{e[0]}: {e[1][:40]}")
def test_every_expression_yields_a_demand(expression: tuple[str, str, str]):
    """If the parser found nothing in an expression, the check would pass whatever the service exposes."""
    where, text, _ = expression
    asked = {name for demand in demands() if demand.where == where for name in demand.metrics}
    assert (
        asked & set(re.findall(r"[\w:]+", text))
        or RECORDED & set(re.findall(r"[\w:]+", text))
        or "up" in text
        or text == "vector(1)"
    )


def without(demand: Demand, exposition: str) -> str:
    """Return an exposition in which the demanded name, label, value or edge is another one."""
    lines = exposition.splitlines(keepends=True)
    if demand.label == "le" and demand.value not in ("", "+Inf"):
        old, new = f'le="{demand.value}"', f'le="{float(demand.value) * 0.8:g}"'
    elif demand.value:
        old, new = f'{demand.label}="{demand.value}"', f'{demand.label}="renamed"'
    elif demand.label:
        old, new = f'{demand.label}="', 'renamed="'
    else:
        old, new = demand.metrics[0], "renamed"
    return "".join(
        line.replace(old, new) if line.startswith(demand.metrics) and not line.startswith("#") else line
        for line in lines
    )


def test_each_changed_name_label_value_and_edge_is_missed(exposition: str):
    """Each demand in turn: 0.5 s becomes 0.4 s, an outcome gets another code."""
    assert len(demands()) > 100
    each = {(demand.metrics, demand.label, demand.value): demand for demand in demands()}.values()
    assert [str(demand) for demand in each if demand not in missing(without(demand, exposition))] == []


EDGES = sorted(
    {(d.metrics[0], d.value) for d in demands() if d.label == "le" and d.value not in ("", "+Inf")}
)


@pytest.mark.parametrize(("metric", "edge"), EDGES)
def test_another_edge_in_the_code_fails_the_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, metric: str, edge: str
):
    """As if `buckets=` of the metric were changed: an alert on that edge could never fire."""
    histogram = prometheus_client.Histogram.__init__

    def changed(self: object, name: str, *arguments: object, buckets: tuple[float, ...], **options: object):
        if metric == f"{name}_bucket":
            buckets = tuple(0.8 * upper if upper == float(edge) else upper for upper in buckets)
        histogram(self, name, *arguments, buckets=sorted(buckets), **options)

    monkeypatch.setattr(prometheus_client.Histogram, "__init__", changed)
    with running(settings) as client:
        missed = [demand for demand in missing(client.get("/metrics").text) if demand.value]
    assert (metric, "le", edge) in {(demand.metrics[0], demand.label, demand.value) for demand in missed}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_entry_in_the_runbook_and_a_test(alert: dict):
    """The link leads to a heading, and a promtool test makes the alert fire."""
    path, anchor = alert["annotations"]["runbook"].split("#")
    headings = re.findall(r"^## (\w+)$", (tiny.ROOT / path).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert alert["alert"] in headings
    fired = {check["alertname"] for case in CASES for check in case["alert_rule_test"] if check["exp_alerts"]}
    assert alert["alert"] in fired


def test_rules_use_exactly_the_recorded_series():
    """None is missing, and none is unused."""
    asked = set(re.findall(r"\b(?:job|instance):[\w:]+", " ".join(rule["expr"] for rule in RULES)))
    assert asked == RECORDED


def test_no_alert_mixes_environments():
    """Staging and production may be in one Prometheus: what is summed by job is summed by environment too."""
    for rule in RULES:
        groupings = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
        assert all("environment" in labels for labels in groupings), rule
