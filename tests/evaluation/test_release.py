"""A candidate is measured on the test split when it is to be released, and only then."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.__main__ import main
from serving.contract import artifact
from serving.runtime.handler import load_handler
from tests import redness, tiny
from tests.pictures import encode

PHOTOS = 30
GATES = "offline: {{accuracy_min: {}, ece_max: 0.5}}"


def picture(label: str, number: int, side: int) -> bytes:
    """A red cat or a blue dog."""
    pixels = np.full((side, side, 3), 20 + 3 * number, np.uint8)
    pixels[..., 0 if label == "cat" else 2] += 60
    return encode(Image.fromarray(pixels), "PNG")


@pytest.fixture
def candidate(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Artefacts, photos in two splits and their manifest, where the pipeline writes them."""
    monkeypatch.setattr("evaluation.release.release.PHOTOS", 10)  # under each corruption
    rows = []
    for split in ("validation", "test"):
        for label in ("cat", "dog"):
            for number in range(PHOTOS):
                path = Path("data/raw", label, f"{split}-{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(label, number, 60))
                rows.append((str(path.relative_to("data/raw")), label, split, f"{split}{label}{number:02}"))
    Path("data/prepared").mkdir()
    table = pd.DataFrame(rows, columns=["path", "label", "split", "sha256"])
    table.to_csv("data/prepared/manifest.csv", index=False)
    card = msgspec.structs.replace(tiny.card(), measured_on="validation")
    for name in ("model.pt", "model.onnx"):
        redness.write(Path("models", name), card)
    redness.write(Path("models/model-int8.onnx"), msgspec.structs.replace(card, precision="int8"))
    return workplace


def release(accuracy_min: float = 0.9, *options: str) -> int:
    """Run the command with this gate."""
    Path("gates.yaml").write_text(GATES.format(accuracy_min))
    return main(["release", "--gates", "gates.yaml", *options])


def stored(name: str) -> dict[str, object]:
    """A file of the release."""
    return json.loads(Path("models/release", name).read_text())


@pytest.mark.usefixtures("candidate")
def test_a_good_model_is_released_with_the_figures_of_the_test_split():
    """The released file loads, has the candidate's network, and says on which split it was measured."""
    assert release() == 0
    released, exported = (
        artifact.read(Path(path)) for path in ("models/release/model.pt", "models/model.pt")
    )
    assert (exported.card.measured_on, released.card.measured_on) == ("validation", "test")
    assert released.card.metrics["accuracy"].n == 2 * PHOTOS
    assert msgspec.structs.replace(released.card, metrics={}, measured_on="") == msgspec.structs.replace(
        exported.card, metrics={}, measured_on=""
    )
    assert stored("card.json") == msgspec.to_builtins(released.card)
    figures, slices = stored("metrics.json"), stored("slices.json")
    assert figures["model"]["sha256"] == slices["model"]["sha256"] == released.sha256
    assert (figures["split"], slices["split"], figures["test_looks"]) == ("test", "test", 1)
    assert "production" not in figures.keys() | stored("card.json").keys(), "there are no photos of it"
    assert "## In production" not in Path("docs/model-card.md").read_text()


@pytest.mark.usefixtures("candidate")
def test_every_look_at_the_test_split_is_counted_once():
    """A candidate that fails is counted too; the same look again is not, and validation never is."""
    assert main(["offline", "--report-only", "--out", "out"]) == 0
    assert not Path("data/test-ledger.csv").exists()
    assert json.loads(Path("out/metrics.json").read_text()).get("test_looks") is None
    assert release(1.0) == 3, "60 right of 60 do not show an accuracy of 1"
    assert release() == release() == 0
    again = ["--model", "models/release/model.pt", "--split", "test", "--report-only", "--out", "out"]
    assert main(["offline", *again]) == 0, "the released file holds the same network"
    with Path("data/test-ledger.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["purpose"], row["photos"]) for row in rows] == [("offline", str(2 * PHOTOS))]
    Path("data/test-ledger.csv").write_text("nothing")
    assert release() == 2


@pytest.mark.usefixtures("candidate")
def test_the_accuracy_in_production_is_released_too(capsys: pytest.CaptureFixture[str]):
    """With interval, n and the first day, in figures, artefacts and model card; no gate judges it."""
    table = pd.read_csv("data/prepared/manifest.csv")
    taken = table[table["split"] == "validation"].index[:40]
    table.loc[taken, "split"] = "production"
    table.loc[taken[:4], "label"] = "dog"
    table.to_csv("data/prepared/manifest.csv", index=False)
    Path("data/fetch.json").write_text('{"added": [{"review": {"production_first": "2026-11-02"}}]}')
    assert release() == 0
    expected = {"value": 0.9, "low": 0.7695, "high": 0.9604, "n": 40, "since": "2026-11-02"}
    since = expected.pop("since")
    for name in ("metrics.json", "metrics-int8.json", "card.json", "card-int8.json"):
        found = stored(name)["production"]
        assert found.pop("since") == since
        assert found == pytest.approx(expected, abs=1e-4)
    for name in ("model.pt", "model.onnx", "model-int8.onnx"):
        assert artifact.read(Path("models/release", name)).card.production.n == 40
    text = (
        "Accuracy 90.00% [76.95%, 96.04%] for fp32, n=40, since 2026-11-02; 90.00% [76.95%, 96.04%] for int8"
    )
    assert text in Path("docs/model-card.md").read_text()
    with Path("data/test-ledger.csv").open() as file:
        looks = [(row["purpose"], row["photos"]) for row in csv.DictReader(file)]
    assert looks.count(("offline production", "40")) == 1
    assert "production" not in capsys.readouterr().out


def test_the_model_card_describes_the_release(candidate: Path):
    """Figures, data, slices, and how often the split was used."""
    summary = {
        "files": 12,
        "kept": 10,
        "dropped_by_reason": {"empty": 2},
        "labels": ["cat", "dog"],
        "photos": {"train": {"cat": 4, "dog": 6}},
        "kept_test": ["test"],
    }
    (candidate / "data/prepared/summary.json").write_text(json.dumps(summary))
    taken = candidate / "taken/cat"
    taken.mkdir(parents=True)
    for number in range(10):
        (taken / f"test-{number}.png").write_bytes(picture("cat", number, 400))
    assert release(0.9, "--as-taken", "taken") == 0
    page = Path("docs/model-card.md").read_text()
    for text in (
        "# Model card: tiny 1",
        "| accuracy, labels as found | 1.0000 [0.9398 to 1.0000], n=60 |",
        "12 files, 10 kept; dropped: 2 empty. The test split is the one that the data's owner set aside",
        "| train | 4 | 6 |",
        "Models looked at on this test split: 1",
        "A perfectly calibrated model would show",
        "100% of the photos are in the slice “longest side, pixels: under 250”",
        "On 10 of the photos as they were taken the accuracy is 100.00%",
        "| jpeg |",
    ):
        assert text in page


@pytest.mark.usefixtures("candidate")
def test_both_runtimes_and_int8_are_released_together():
    """The ONNX file has the TorchScript file's card, the int8 file its own card, figures and slices."""
    assert release() == 0
    assert {p.name for p in Path("models/release").iterdir()} == {
        *("model.pt", "model.onnx", "model-int8.onnx"),
        *(f"{name}{suffix}.json" for name in ("card", "metrics", "slices") for suffix in ("", "-int8")),
    }
    cards = {p.name: artifact.read(p).card for p in Path("models/release").glob("model*")}
    assert cards["model.onnx"] == cards["model.pt"]
    assert cards["model-int8.onnx"].precision == "int8"
    assert cards["model-int8.onnx"].measured_on == "test"
    assert (
        load_handler(Path("models/release/model.onnx")).artifact.sha256
        in Path("docs/model-card.md").read_text()
    )


@pytest.mark.usefixtures("candidate")
def test_an_int8_file_that_fails_is_left_out_and_the_others_are_released(capsys: pytest.CaptureFixture[str]):
    """It would be served next to a card that promises more."""
    card = msgspec.structs.replace(tiny.card(), precision="int8")
    redness.write(Path("models/model-int8.onnx"), card, turned=255)
    assert release() == 0
    assert "models/model-int8.onnx is not released" in capsys.readouterr().err
    assert not list(Path("models/release").glob("*int8*"))
    assert Path("models/release/model.onnx").exists()


@pytest.mark.usefixtures("candidate")
@pytest.mark.parametrize(
    ("turned", "run", "words"), [(0, "another", "not of one export"), (255, "run", "answers 60 of 60 photos")]
)
def test_files_of_two_exports_are_not_released_together(
    turned: float, run: str, words: str, capsys: pytest.CaptureFixture[str]
):
    """By their cards, and by their answers."""
    card = msgspec.structs.replace(tiny.card(), measured_on="validation")
    lineage = msgspec.structs.replace(card.lineage, mlflow_run_id=run)
    redness.write(Path("models/model.onnx"), msgspec.structs.replace(card, lineage=lineage), turned)
    assert release() == 2
    assert words in capsys.readouterr().err
    assert not Path("models/release").exists()


@pytest.mark.usefixtures("candidate")
def test_a_failing_artefact_leaves_the_release_unchanged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A gate that fails, photos that cannot tell, a file that is too large for the repository."""
    assert release() == 0
    before = {path.name: path.read_bytes() for path in Path("models/release").iterdir()}
    swapped = Path("data/raw/cat"), Path("data/raw/dog")
    for label, other in (("cat", "dog"), ("dog", "cat")):
        shutil.copytree(Path("data/raw", label), Path("swapped", other))
    assert release(0.9, "--raw", "swapped") == 1
    assert release(0.99) == 3
    monkeypatch.setattr("evaluation.release.release._MAX_BYTES", 100)
    assert release() == 1
    assert all(folder.exists() for folder in swapped)
    assert {path.name: path.read_bytes() for path in Path("models/release").iterdir()} == before
    assert capsys.readouterr().err.count("models/release is unchanged") == 3


@pytest.mark.usefixtures("candidate")
@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("models/model.pt", "make train"),
        ("models/model-int8.onnx", "make train"),
        ("data/prepared/manifest.csv", "make data"),
    ],
)
def test_nothing_to_release_is_an_error_with_the_next_step(
    missing: str, words: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with the next step."""
    Path(missing).unlink()
    assert release() == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("candidate")
def test_a_release_that_fails_halfway_leaves_the_earlier_one_complete(monkeypatch: pytest.MonkeyPatch):
    """Model, card and figures change together."""
    assert release() == 0
    before = {path.name: path.read_bytes() for path in Path("models/release").iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.release.release.write_json", full)
    assert release() == 2
    assert {path.name: path.read_bytes() for path in Path("models/release").iterdir()} == before
    assert [path.name for path in Path("models").iterdir() if "partial" in path.name] == []
