"""Report and alert rules distinguish a window of changed photos from one of unchanged photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import yaml
from PIL import Image

from evaluation.__main__ import main
from evaluation.service import drift
from serving.contract import reference
from serving.runtime import torchscript
from serving.telemetry.drift import Window
from tests import processes, tiny
from tests.pictures import encode
from training.export.measure import measure


def window(shift: float, n: int = 500) -> dict[str, object]:
    """The JSON of GET /drift for photos whose brightness has moved by `shift` standard deviations."""
    random = np.random.default_rng(1)

    def photos(count: int, by: float) -> list[dict[str, float]]:
        return [
            {"brightness": float(value), "confidence": 0.9, "prediction": float(label)}
            for value, label in zip(random.normal(by, 1, count), random.integers(0, 2, count), strict=True)
        ]

    latest = Window(reference.make_reference(photos(2000, 0), 2), 1000)
    for photo in photos(n, shift):
        latest.add(photo)
    return msgspec.to_builtins(latest.report())


def run(tmp_path: Path, content: object) -> int:
    """Run the command on a file."""
    (tmp_path / "window.json").write_text(json.dumps(content))
    return main(["drift", "--file", str(tmp_path / "window.json"), "--out", str(tmp_path / "out")])


def test_a_shift_is_reported_and_chance_is_not(tmp_path: Path):
    """Exit 1 with the quantity's name, picture and page; exit 0 for unchanged photos."""
    assert run(tmp_path, window(1.0)) == 1
    assert "DRIFT in brightness\n" in (tmp_path / "out/summary.md").read_text()
    page = (tmp_path / "out/report.html").read_text()
    assert "data:image/png;base64," in page
    assert page.count(">drifted<") == 1
    assert run(tmp_path, window(0.0)) == 0
    assert "No drift" in (tmp_path / "out/summary.md").read_text()


def test_a_significant_but_small_difference_is_no_drift():
    """A third of a standard deviation in 1,000 photos is significant, but nothing to act on."""
    found = window(0.33, 1000)["quantities"]["brightness"]
    assert found["z"] > drift.ALARM_Z
    assert found["distance"] < drift.ALARM_DISTANCE
    assert not drift.alarms(found["distance"], found["z"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"photos": 0, "quantities": {}}, "has no drift reference"),
        (window(0.0, 20), "has 20 photos"),
        ([], "not the JSON of GET /drift"),
    ],
)
def test_what_cannot_be_judged_is_an_error_with_its_cause(
    tmp_path: Path, content: object, words: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with the cause."""
    assert run(tmp_path, content) == 2
    assert words in capsys.readouterr().err


def test_the_alert_rule_has_the_reports_limits():
    """deploy/monitoring/rules.yml and evaluation.service.drift agree on what drift is."""
    rules = yaml.safe_load((tiny.ROOT / "deploy/monitoring/rules.yml").read_text())
    alerts = {rule.get("alert"): rule.get("expr") for group in rules["groups"] for rule in group["rules"]}
    for text in (
        f"classifier_drift_distance_ratio > {drift.ALARM_DISTANCE}\n",
        f"classifier_drift_test_z > {drift.ALARM_Z:g}\n",
        f"classifier_drift_window_photos >= {drift.LEAST_PHOTOS}\n",
    ):
        assert text in alerts["ClassifierDrift"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured noise, 100 of each class."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(100):
            pixels = random.integers(0, random.integers(100, 256, 3), (40, 60, 3)).astype(np.uint8)
            (folder / label / f"{number:03}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    return folder


@pytest.fixture(scope="module")
def profiled(model: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artefact with a drift reference from these pictures."""
    network, loaded = torchscript.load(model)
    photos = measure(network, sorted(labelled.rglob("*.png")), tiny.SIDE)
    card = msgspec.structs.replace(
        tiny.card(), reference=reference.make_reference(photos, 2), unfamiliar_above=0.9
    )
    path = tmp_path_factory.mktemp("profiled") / "model.pt"
    torchscript.save(path, network, card, loaded.probe)
    return path


def test_the_study_finds_real_changes_and_no_false_ones(profiled: Path, labelled: Path, tmp_path: Path):
    """Greyscale alarms by saturation, darkness by brightness; unchanged photos raise no alarm."""
    arguments = ["--model", str(profiled), "--labelled", str(labelled), "--windows", "20"]
    strangers = ["--strangers", str(labelled / "cat")]
    assert main(["shifts", *arguments, *strangers, "--out", str(tmp_path)]) == 0
    kinds = json.loads((tmp_path / "shifts.json").read_text())["kinds"]
    assert set(kinds["none"]["alarmed_share_by_size"].values()) == {0.0}
    assert kinds["none"]["photos_to_detect"] is None
    assert kinds["greyscale"]["alarmed_share_by_size"]["1000"] == 1.0
    assert "saturation" in kinds["greyscale"]["quantities_in_the_largest"]
    assert "brightness" in kinds["dark, a third of the light"]["quantities_in_the_largest"]
    assert kinds["strangers"]["unfamiliar"]["n"] == 100
    assert "| greyscale (n=200) |" in (tmp_path / "table.md").read_text()


def test_a_running_service_is_judged(
    profiled: Path, labelled: Path, tmp_path: Path, environment: Callable[..., dict[str, str]]
):
    """Unchanged photos: no drift. Then as many grey ones: drift, at the same URL."""
    with processes.service(environment(MODEL=str(profiled), SERVING_DRIFT_WINDOW="200")) as process:
        process.wait_for("ready")
        out = ["--url", process.url, "--out", str(tmp_path)]
        assert main(["drift", *out]) == 2  # no photos yet
        grey = encode(Image.new("RGB", (60, 40), "grey"), "PNG")
        with httpx.Client(base_url=process.url) as client:
            for path in sorted(labelled.rglob("*.png")):
                assert client.post("/predict", content=path.read_bytes()).status_code == 200
            assert main(["drift", *out]) == 0
            for _ in range(200):
                assert client.post("/predict", content=grey).status_code == 200
        assert main(["drift", *out]) == 1
        assert "saturation" in (tmp_path / "summary.md").read_text().splitlines()[0]
