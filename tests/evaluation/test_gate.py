"""Limits are strict, and an invalid limit is an error before anything is computed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from evaluation.__main__ import main
from evaluation.artefact.results import Comparison, Offline
from evaluation.figures import gates
from evaluation.figures.intervals import Figure
from evaluation.service.results import Consistency, Live
from tests.tiny import ROOT

RESULTS = {"offline": Offline, "live": Live, "consistency": Consistency, "promotion": Comparison}


class Result(msgspec.Struct):
    """Numbers, a figure, and what no gate can limit."""

    accuracy: Figure | None
    ece: float
    name: str = "a"
    counts: dict[str, int] = {}

    @property
    def retries(self) -> int:
        """A property is a number too."""
        return 3


def result(accuracy: float | None, ece: float) -> Result:
    """A result with these figures."""
    return Result(None if accuracy is None else Figure(accuracy, 0, 1, 10), ece)


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (result(0.99, 0.01), [True, True]),
        (result(0.98, 0.01), [False, True]),
        (result(0.99, 0.02), [True, False]),
        (result(float("nan"), float("nan")), [False, False]),
        (result(None, float("inf")), [False, False]),
    ],
)
def test_a_floor_is_a_floor_and_a_ceiling_a_ceiling(given: Result, passed: list[bool]):
    """The limit itself passes; a figure that is missing or undefined fails."""
    verdicts = gates.Gates({"accuracy_min": 0.99, "ece_max": 0.01}).judge(given)
    assert [verdict.passed for verdict in verdicts] == passed
    assert gates.as_text(verdicts).count("PASS") == sum(passed)
    assert gates.by_name(verdicts) == dict(zip(("accuracy_min", "ece_max"), passed, strict=True))


def test_a_gate_can_limit_numbers_figures_and_properties_and_nothing_else():
    """The types of the record decide, not its values."""
    assert gates.numbers(Result) == ["accuracy", "ece", "retries"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no gates at"),
        ("offline: {accuracy_mim: 0.9}", "offline.accuracy_mim is not a gate. Did you mean 'accuracy_min'"),
        ("offline: {acuracy_min: 0.9}", "Did you mean 'accuracy_min'"),
        ("offline: {accuracy: 0.9}", "Did you mean 'accuracy_m"),
        ("offline: {name_min: 0.9}", "offline.name_min is not a gate"),
        ("offline: {counts_max: 0.9}", "offline.counts_max is not a gate"),
        ("offline: {accuracy_min: high}", "must be a number"),
        ("offline: {accuracy_min: true}", "must be a number"),
        ("offline: {}\nofline: {}", "ofline is not a section. Did you mean 'offline'"),
        ("live: {}", "no section 'offline'"),
        ("offline: [", "not valid YAML"),
        ("", "no section"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_cause(tmp_path: Path, text: str | None, words: str):
    """A misspelt gate must not be a gate that never fails."""
    path = tmp_path / "gates.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(gates.GateError, match=words):
        gates.read_gates("offline", Result, path)


@pytest.mark.parametrize(
    ("command", "section"),
    [
        ("offline", "offline"),
        ("compare", "promotion"),
        ("live --url http://127.0.0.1:9 --labelled nowhere", "live"),
    ],
)
def test_a_gate_without_a_figure_stops_a_command_before_it_starts(
    command: str, section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Photos, artefact and service are missing too, but the gate is the first error."""
    path = tmp_path / "gates.yaml"
    path.write_text(f"{section}: {{accuracy_median: 1}}")
    assert main([*command.split(), "--gates", str(path)]) == 2
    assert f"{section}.accuracy_median is not a gate" in capsys.readouterr().err


@pytest.mark.parametrize("section", gates.SECTIONS)
def test_the_projects_own_limits_are_known(section: str):
    """Every gate in configs/gates.yaml limits an existing number."""
    found = gates.read_gates(section, RESULTS[section], ROOT / "configs/gates.yaml").limits
    assert found
    assert section != "offline" or found["accuracy_min"] >= 0.985
    assert section != "live" or found["failed_share_max"] == 0
