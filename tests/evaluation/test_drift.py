"""Report and alert rules distinguish a window of changed photos from one of unchanged photos."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import yaml
from PIL import Image

from evaluation.__main__ import main
from evaluation.artefact import windows
from evaluation.service import drift
from serving.contract import reference
from serving.runtime.load import load, reseal
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
    """Coloured noise, 200 of each class."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(200):
            pixels = random.integers(0, random.integers(100, 256, 3), (40, 60 + number % 3, 3)).astype(
                np.uint8
            )
            (folder / label / f"{number:03}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    return folder


@pytest.fixture(scope="module")
def profiled(model: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artefact with a drift reference from these pictures."""
    network, loaded = load(model)
    photos = measure(network, sorted(labelled.rglob("*.png")), tiny.SIDE)
    card = msgspec.structs.replace(
        tiny.card(), reference=reference.make_reference(photos, 2), unfamiliar_above=0.9
    )
    path = tmp_path_factory.mktemp("profiled") / "model.pt"
    reseal(model, path, card, loaded.probe)
    return path


def test_the_study_finds_real_changes_and_few_false_ones(profiled: Path, labelled: Path, tmp_path: Path):
    """Grey and dark pictures drift within a window, and so does one quantity alone; the others do not."""
    arguments = ["--model", str(profiled), "--labelled", str(labelled), "--runs", "20"]
    strangers = ["--strangers", str(labelled / "cat")]
    assert main(["shifts", *arguments, *strangers, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "shifts.json").read_text())
    assert (found["reference_photos"], found["window"], found["runs"]) == (100, 100, 20)
    assert found["false_alarms"]["per_run"]["value"] <= 0.1
    kinds = found["kinds"]
    assert kinds["greyscale"]["detection"]["high"] <= 100
    assert kinds["greyscale"]["strongest"]["quantity"] == "saturation"
    assert kinds["dark, a third of the light"]["detection"]["detected"]["value"] == 1.0
    assert found["moved"]["longest_side"]["detected"]["value"] == 1.0
    assert kinds["strangers"]["unfamiliar"]["n"] == 200
    table = (tmp_path / "table.md").read_text()
    assert "| greyscale (n=200) |" in table
    assert "| longest side |" in table


def test_photos_of_a_run_are_not_in_its_reference(monkeypatch: pytest.MonkeyPatch):
    """A false alarm can be found only on photos that did not make the reference."""
    seen: list[tuple[set[float], set[float]]] = []

    def judge(known: reference.Reference, stream: list[dict[str, float]], *_: int) -> dict[str, np.ndarray]:
        seen.append((set(known.quantities["brightness"].edges), {photo["brightness"] for photo in stream}))
        return {name: np.zeros(3, bool) for name in known.quantities}

    monkeypatch.setattr(windows, "drifted", judge)
    monkeypatch.setattr(windows, "make_reference", lambda photos, _: reference.Reference(
        len(photos), {"brightness": reference.Counts([photo["brightness"] for photo in photos], [])}
    ))  # fmt: skip
    pool = [{"brightness": float(n)} for n in range(300)]
    found = windows.false_alarms(pool, 2, 150, 10, np.random.default_rng(0))
    assert (found.photos, len(seen)) == (150, 10)
    assert all(not (used & stream) and len(used | stream) == 300 for used, stream in seen)


def test_the_latest_photos_become_the_reference(
    profiled: Path,
    labelled: Path,
    tmp_path: Path,
    environment: Callable[..., dict[str, str]],
    capsys: pytest.CaptureFixture[str],
):
    """They drift from the card's reference, and not from one of themselves; another model ignores it."""
    model = tmp_path / "model.pt"
    shutil.copy(profiled, model)
    grey = [encode(Image.new("L", (60, 40), level), "PNG") for level in range(50, 170)]
    with processes.service(environment(MODEL=str(model), SERVING_DRIFT_WINDOW="120")) as process:
        process.wait_for("ready")
        out, here = ["--out", str(tmp_path / "out")], ["--url", process.url]
        assert main(["reference", *here, "--model", str(model)]) == 2
        assert "0 photos of the 100 needed" in capsys.readouterr().err
        with httpx.Client(base_url=process.url) as client:
            assert all(client.post("/predict", content=data).status_code == 200 for data in grey)
            assert main(["drift", *here, *out]) == 1
            other = tiny.write_artifact(tmp_path / "other.pt", seed=2)
            assert main(["reference", *here, "--model", str(other)]) == 2
            assert "The service runs the model" in capsys.readouterr().err
            assert main(["reference", *here, "--model", str(model)]) == 0
            process.popen.send_signal(signal.SIGHUP)
            process.wait_for("reloaded")
            assert all(client.post("/predict", content=data).status_code == 200 for data in grey)
            assert client.get("/drift").json()["reference_source"].startswith("latest photos of http")
        assert main(["drift", *here, *out]) == 0
        model.write_bytes(other.read_bytes())
        process.popen.send_signal(signal.SIGHUP)
        assert "is of another model" in str(process.wait_for("drift reference ignored")["reason"])


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
            for path in sorted(labelled.rglob("*.png"))[::2]:
                assert client.post("/predict", content=path.read_bytes()).status_code == 200
            assert main(["drift", *out]) == 0
            for _ in range(200):
                assert client.post("/predict", content=grey).status_code == 200
        assert main(["drift", *out]) == 1
        assert "saturation" in (tmp_path / "summary.md").read_text().splitlines()[0]
