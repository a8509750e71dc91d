"""Limits are judged strictly, and a wrong limit is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.artefact.offline import KNOWN_GATES as OFFLINE
from evaluation.release.release import gates
from evaluation.service.live import KNOWN_GATES as LIVE
from tests.tiny import ROOT

KNOWN = {"accuracy_min": "accuracy.value", "ece_max": "ece.value"}


def figures(accuracy: float | None, ece: float | None) -> dict[str, dict[str, float | None]]:
    """As evaluation has them."""
    return {"accuracy": {"value": accuracy}, "ece": {"value": ece}}


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (figures(0.99, 0.01), [True, True]),
        (figures(0.98, 0.01), [False, True]),
        (figures(0.99, 0.02), [True, False]),
        (figures(None, float("nan")), [False, False]),
        ({}, [False, False]),
    ],
)
def test_a_floor_is_a_floor_and_a_ceiling_a_ceiling(given: dict[str, object], passed: list[bool]):
    """The limit itself passes; a missing figure fails."""
    verdicts = gates.judge(given, {"accuracy_min": 0.99, "ece_max": 0.01}, KNOWN)
    assert [verdict.passed for verdict in verdicts] == passed
    assert gates.show(verdicts).count("PASS") == sum(passed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no gates at"),
        ("offline: {accuracy_mim: 0.9}", "Did you mean 'accuracy_min'"),
        ("offline: {accuracy_min: high}", "must be a number"),
        ("live: {}", "no section 'offline'"),
        ("offline: [", "not valid YAML"),
        ("", "no section"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str | None, words: str):
    """A misspelt gate must not be a gate that never fails."""
    path = tmp_path / "gates.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(gates.GateError, match=words):
        gates.read_gates("offline", KNOWN, path)


def test_the_projects_own_limits_are_known():
    """configs/gates.yaml names gates that exist."""
    path = ROOT / "configs/gates.yaml"
    assert gates.read_gates("offline", OFFLINE, path)["accuracy_min"] >= 0.985
    assert gates.read_gates("live", LIVE, path)["failed_share_max"] == 0
