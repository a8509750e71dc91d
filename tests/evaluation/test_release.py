"""Only the evaluated artefact is released, and only if it passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from evaluation.__main__ import main
from evaluation.figures.metrics import evaluate
from serving.contract import artifact
from serving.runtime import torchscript
from tests import tiny


@pytest.fixture
def candidate(model: Path, workplace: Path) -> dict[str, object]:
    """An artefact and its figures where the pipeline writes them."""
    (workplace / "models").mkdir()
    shutil.copy(model, "models/model.pt")
    certain = np.eye(2)[[0, 1] * 50]
    figures = msgspec.to_builtins(evaluate(certain, certain.argmax(1), ["cat", "dog"])) | {
        "accuracy": {"value": 0.99, "low": 0.98, "high": 1.0, "n": 100},
        "ece": {"value": 0.001, "low": 0.0, "high": 0.01, "n": 100},
        "uncertain": {"value": 0.0, "low": 0.0, "high": 0.04, "n": 100},
        "accuracy_when_certain": {"value": 0.99, "low": 0.98, "high": 1.0, "n": 100},
        "model": {"name": "tiny", "version": "1", "sha256": artifact.read(model).sha256},
        "mlflow_run_id": "run",
    }
    Path("reports/evaluation").mkdir(parents=True)
    return figures


def release(figures: dict[str, object]) -> int:
    """Run the command with these figures."""
    Path("reports/evaluation/metrics.json").write_text(json.dumps(figures))
    return main(["release"])


def test_a_good_model_is_released_with_card_and_figures(candidate: dict[str, object]):
    """The released file loads."""
    assert release(candidate) == 0
    assert artifact.read(Path("models/release/model.pt")).card == tiny.card()
    assert json.loads(Path("models/release/card.json").read_text())["name"] == "tiny"
    assert json.loads(Path("models/release/metrics.json").read_text()) == candidate


def test_the_model_card_describes_the_release(candidate: dict[str, object]):
    """Figures, data and slices of this artefact; slices of another are left out."""
    summary = {
        "files": 12,
        "kept": 10,
        "dropped_by_reason": {"empty": 2},
        "labels": ["cat", "dog"],
        "photos": {"train": {"cat": 4, "dog": 6}},
        "kept_test": ["test"],
    }
    cell = {"value": 0.91, "low": 0.9, "high": 0.92, "n": 100}
    slices = {
        "model": candidate["model"],
        "accuracy": cell,
        "accuracy_of_those_corrupted": cell,
        "slices": [{"property": "brightness", "slice": "under 0.3"} | cell],
        "weakest": {"property": "brightness", "slice": "under 0.3"} | cell,
        "corruptions": {"jpeg": [cell] * 5},
    }
    for path, content in (("data/prepared/summary.json", summary), ("build/slices/slices.json", slices)):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(json.dumps(content))
    assert release(candidate) == 0
    page = Path("docs/model-card.md").read_text()
    for text in (
        "# Model card: tiny 1",
        "| accuracy, labels as found | 0.9900 [0.9800 to 1.0000], n=100 |",
        "12 files, 10 kept; dropped: 2 empty. The test split is the one that the data's owner set aside",
        "| train | 4 | 6 |",
        "Weakest slice of 50 photos or more: brightness under 0.3, 91.00% of 100.",
        "| jpeg | 91.0% |",
    ):
        assert text in page
    Path("build/slices/slices.json").write_text(
        json.dumps(slices | {"model": {"version": "2", "sha256": "another"}})
    )
    assert release(candidate) == 0
    assert "Weakest slice" not in Path("docs/model-card.md").read_text()


def test_an_int8_model_is_released_alongside_the_other(candidate: dict[str, object]):
    """Under its own name, with its own card and figures."""
    assert release(candidate) == 0
    before = Path("models/release/model.pt").read_bytes()
    network, loaded = torchscript.load(Path("models/model.pt"))
    card = msgspec.structs.replace(loaded.card, precision="int8")
    torchscript.save(Path("models/model.pt"), network, card, loaded.probe)
    sha = artifact.read(Path("models/model.pt")).sha256
    assert release(candidate | {"model": candidate["model"] | {"sha256": sha}}) == 0
    assert artifact.read(Path("models/release/model-int8.pt")).card == card
    assert {p.name for p in Path("models/release").iterdir()} == {
        *("model.pt", "card.json", "metrics.json"),
        *("model-int8.pt", "card-int8.json", "metrics-int8.json"),
    }
    assert Path("models/release/model.pt").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100}},
        {"ece": {"value": None, "low": None, "high": None, "n": 100}},
        {"model": {"version": "1", "sha256": "another"}},
    ],
    ids=["inaccurate", "not measured", "another file"],
)
def test_a_failing_artefact_leaves_the_release_unchanged(
    candidate: dict[str, object], change: dict[str, object]
):
    """Each failing gate alone is enough."""
    assert release(candidate) == 0
    before = Path("models/release/metrics.json").read_text()
    assert release(candidate | change) == 1
    assert Path("models/release/metrics.json").read_text() == before


@pytest.mark.parametrize("missing", ["models/model.pt", "reports/evaluation/metrics.json"])
def test_nothing_to_release_is_an_error_with_the_next_step(
    candidate: dict[str, object], missing: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with the next step."""
    assert release(candidate) == 0
    Path(missing).unlink()
    assert main(["release"]) == 2
    assert "make train" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{}", "not JSON"])
def test_a_file_that_is_not_an_evaluation_is_an_error(
    text: str, candidate: dict[str, object], capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with the next step; nothing is released."""
    Path("reports/evaluation/metrics.json").write_text(text)
    assert main(["release"]) == 2
    assert "is not an evaluation" in capsys.readouterr().err
    assert not Path("models/release").exists()


def test_a_release_that_fails_halfway_leaves_the_earlier_one_complete(
    candidate: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """Model, card and figures change together."""
    assert release(candidate) == 0
    before = {path.name: path.read_bytes() for path in Path("models/release").iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.release.release.write_json", full)
    assert release(candidate | {"n": 99}) == 2
    assert {path.name: path.read_bytes() for path in Path("models/release").iterdir()} == before
    assert [path.name for path in Path("models").iterdir() if "partial" in path.name] == []
