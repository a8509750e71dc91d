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
    return Result(None if accuracy is None else Figure(accuracy, accuracy, accuracy, 10), ece)


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
    assert gates.by_name(verdicts) == dict(zip(("accuracy_min", "ece_max"), passed, strict=True))
    assert gates.as_text(verdicts).count("PASS") == sum(passed)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.75, 0.875, gates.Outcome.PASS),
        (0.5, 0.7, gates.Outcome.FAIL),
        (0.7, 0.875, gates.Outcome.TOO_FEW),
        (float("nan"), float("nan"), gates.Outcome.TOO_FEW),
    ],
)
def test_an_interval_is_judged_as_a_whole(low: float, high: float, outcome: gates.Outcome):
    """Within the limit, beyond it, or too few photos to tell, which is neither; also for a ceiling."""
    figure = Figure(0.75, low, high, 50)
    (floor,) = gates.Gates({"accuracy_min": 0.75}).judge(Result(figure, 0))
    assert floor.outcome == outcome
    other = Figure(0.25, 1 - high, 1 - low, 50)
    (ceiling,) = gates.Gates({"accuracy_max": 0.25}).judge(Result(other, 0))
    assert ceiling.outcome == outcome
    assert gates.by_name([floor])["accuracy_min"] is {0: True, 1: False, 3: None}[outcome]


def test_the_worst_outcome_is_the_exit_status():
    """A failure counts more than too few photos, and these more than a pass."""
    passes, fails, few = (gates.Verdict("accuracy_min", one, "") for one in gates.Outcome)
    assert gates.overall([]) == gates.overall([passes]) == 0
    assert gates.overall([passes, few]) == 3
    assert gates.overall([few, fails, passes]) == 1


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
