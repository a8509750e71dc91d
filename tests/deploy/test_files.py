"""What the files of delivery say of the service is so."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from prometheus_client import CollectorRegistry

from serving.contract import artifact
from serving.contract.reference import make_reference
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.telemetry.drift import DriftMonitor, Window
from serving.telemetry.metrics import Metrics
from tests.tiny import ROOT

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "monitoring/rules.yml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
DASHBOARD = json.loads((DEPLOY / "monitoring/grafana/dashboards/classifier.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def served_names() -> set[str]:
    """Every series that a new service has, and those that come with the first request."""
    registry = CollectorRegistry()
    photo = {"brightness": 0.5, "confidence": 0.9}
    Metrics(registry)
    drift = DriftMonitor(registry, 10)
    drift.window = Window(make_reference([photo] * 10, 2), 10)
    drift.window.add(photo)
    names = set()
    for family in registry.collect():
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
        names |= {family.name + suffix for suffix in kinds.get(family.type, [""])}
    return names


@pytest.mark.parametrize(
    "expression",
    [*(rule["expr"] for group in RULES for rule in group["rules"]), *QUERIES],
    ids=lambda e: e[:60],
)
def test_every_expression_asks_for_metrics_that_the_service_has(expression: str):
    """Rules and panels name no series that is never there."""
    named = set(re.findall(r"\b(?:classifier|process)_[a-z_]+", re.sub(r"\bjob:\w+", "", expression)))
    assert named <= served_names()
    assert named or "job:" in expression or "up" in expression


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_entry_in_the_runbook_and_a_test(alert: dict):
    """The link leads to a heading, and promtool sees it fire."""
    path, anchor = alert["annotations"]["runbook"].split("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / path).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert alert["alert"] in headings
    cases = yaml.safe_load((DEPLOY / "monitoring/rules_test.yml").read_text())["tests"]
    fired = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check["exp_alerts"]}
    assert alert["alert"] in fired


def test_recorded_series_are_recorded():
    """An alert asks for no recording that is not made."""
    recorded = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
    asked = set(re.findall(r"\bjob:[\w:]+", " ".join(rule["expr"] for rule in ALERTS)))
    assert asked == recorded


@pytest.mark.parametrize("name", ["model.pt", "model-int8.pt"])
def test_released_models_answer_the_smoke_photos_rightly(name: str):
    """Surely enough that no processor's rounding turns a deploy away."""
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(ROOT / "models/release" / name))
    for photo in (DEPLOY / "smoke").iterdir():
        answer = handler.handle([{"body": photo.read_bytes()}], None)[0]
        assert answer.prediction == photo.stem
        assert answer.probability > 0.9


def test_the_image_holds_the_versions_that_are_tested():
    """Except torch, which a closed network may have in another version."""
    pinned = dict(
        re.findall(r"^(torch\w*)==(\S+)$", (ROOT / "requirements/torch.txt").read_text(), re.MULTILINE)
    )
    for name in ("Dockerfile.serve", "Dockerfile.train"):
        text = (ROOT / name).read_text()
        assert f"TORCH_VERSION={pinned['torch']}\n" in text
    assert f"TORCHVISION_VERSION={pinned['torchvision']}\n" in text


def test_both_images_stand_on_the_same_base():
    """By digest."""
    bases = {
        re.search(r"^ARG PYTHON_IMAGE=(\S+@sha256:[0-9a-f]{64})$", (ROOT / name).read_text(), re.MULTILINE)[1]
        for name in ("Dockerfile.serve", "Dockerfile.train")
    }
    assert len(bases) == 1


def test_the_build_labels_name_the_model_that_is_built_in():
    """What deploy.py compares with what is served."""
    import subprocess

    text = subprocess.run(
        ["bash", "deploy/build.sh", "labels"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    loaded = artifact.read(ROOT / "models/release/model.pt")
    assert f"MODEL_SHA256={loaded.sha256}" in text
    assert f"MODEL_VERSION={loaded.card.version}" in text


def test_nothing_of_the_data_reaches_an_image():
    """The build context is an allowlist."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert not any(line.startswith(("!data", "!reports", "!.dvc", "!mlruns", "!.git")) for line in lines)


def test_every_action_is_pinned_by_commit_with_its_version_beside_it():
    """In all workflows."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for line in re.findall(r"^\s*-? *uses: (.+)$", path.read_text(), re.MULTILINE):
            assert line.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d\S*", line), line
