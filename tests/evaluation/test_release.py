"""What is released is what was evaluated, and only if it passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from evaluation.release import main
from serving import artifact
from tests import tiny


@pytest.fixture
def candidate(model: Path, workplace: Path) -> dict[str, object]:
    """An artefact and its figures where the pipeline leaves them."""
    (workplace / "models").mkdir()
    shutil.copy(model, "models/model.pt")
    figures = {
        "accuracy": {"value": 0.99},
        "ece": {"value": 0.001},
        "model": {"sha256": artifact.load(model).sha256},
    }
    Path("reports/evaluation").mkdir(parents=True)
    return figures


def release(figures: dict[str, object]) -> int:
    """Run the command with these figures."""
    Path("reports/evaluation/metrics.json").write_text(json.dumps(figures))
    return main()


def test_a_good_model_is_released_with_card_and_figures(candidate: dict[str, object]):
    """And the released file loads."""
    assert release(candidate) == 0
    assert artifact.load(Path("models/release/model.pt")).card == tiny.card()
    assert json.loads(Path("models/release/card.json").read_text())["name"] == "tiny"
    assert json.loads(Path("models/release/metrics.json").read_text()) == candidate


def test_an_int8_model_is_released_beside_the_other(candidate: dict[str, object]):
    """Under its own name, with its own card and figures."""
    assert release(candidate) == 0
    before = Path("models/release/model.pt").read_bytes()
    loaded = artifact.load(Path("models/model.pt"))
    card = msgspec.structs.replace(loaded.card, precision="int8")
    artifact.save(Path("models/model.pt"), loaded.model, card, loaded.probe)
    sha = artifact.load(Path("models/model.pt")).sha256
    assert release(candidate | {"model": {"sha256": sha}}) == 0
    assert artifact.load(Path("models/release/model-int8.pt")).card == card
    assert {p.name for p in Path("models/release").iterdir()} == {
        *("model.pt", "card.json", "metrics.json"),
        *("model-int8.pt", "card-int8.json", "metrics-int8.json"),
    }
    assert Path("models/release/model.pt").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [{"accuracy": {"value": 0.9}}, {"ece": {"value": None}}, {"model": {"sha256": "another"}}],
    ids=["inaccurate", "not measured", "another file"],
)
def test_a_bad_one_leaves_the_release_as_it_was(candidate: dict[str, object], change: dict[str, object]):
    """Each gate alone holds it back."""
    assert release(candidate) == 0
    before = Path("models/release/metrics.json").read_text()
    assert release(candidate | change) == 1
    assert Path("models/release/metrics.json").read_text() == before


@pytest.mark.parametrize("missing", ["models/model.pt", "reports/evaluation/metrics.json"])
def test_nothing_to_release_is_told(
    candidate: dict[str, object], missing: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 and the next step."""
    assert release(candidate) == 0
    Path(missing).unlink()
    assert main() == 2
    assert "make train" in capsys.readouterr().err
