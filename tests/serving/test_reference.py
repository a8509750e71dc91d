"""The reference, the window of the latest photos, and the distance between the two."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from serving.contract.reference import compare, drifts, make_reference, measure
from serving.runtime import torchscript
from serving.settings import Settings
from serving.telemetry.drift import Window
from tests import tiny
from tests.conftest import running
from tests.pictures import encode, scene

GREY = np.full((3, 64, 64), 128, np.uint8)
STRIPES = np.zeros((3, 64, 64), np.uint8)
STRIPES[:, :, ::2] = 255


def photos(n: int, shift: float = 0.0, seed: int = 0) -> list[dict[str, float]]:
    """Measured photos whose brightness is normal around `shift`."""
    random = np.random.default_rng(seed)
    return [
        {"brightness": float(b), "confidence": 0.9, "prediction": float(k)}
        for b, k in zip(random.normal(shift, 1, n), random.integers(0, 2, n), strict=True)
    ]


def window_of(shift: float, n: int = 500, seed: int = 1) -> Window:
    """A full window of photos, against a reference of others without a shift."""
    window = Window(make_reference(photos(2000), 2), n)
    for photo in photos(n, shift, seed):
        window.add(photo)
    return window


def test_quantities_are_what_their_names_say():
    """Grey: half bright, no contrast, no edges; stripes: all of them."""
    plain = measure(GREY, 200, 100, [0.3, 0.7], 0.25)
    assert plain["brightness"] == pytest.approx(0.502, abs=0.001)
    assert (plain["contrast"], plain["saturation"], plain["sharpness"]) == pytest.approx((0, 0, 0), abs=1e-6)
    assert (plain["longest_side"], plain["aspect"]) == (200, 2)
    assert (plain["confidence"], plain["prediction"], plain["feature_distance"]) == (0.7, 1, 0.25)
    assert measure(STRIPES, 64, 64, [1, 0], None)["sharpness"] == 1
    assert "feature_distance" not in measure(STRIPES, 64, 64, [1, 0], None)


def test_the_same_is_near_and_another_is_far():
    """Distance 0 for the same shares, 1 for nothing in common, whatever the number of photos."""
    assert compare([10, 20, 30], [1, 2, 3]).distance == pytest.approx(0, abs=1e-9)
    assert compare([10, 0], [0, 7]).distance == pytest.approx(1)


def archive(n: int, seed: int) -> list[dict[str, float]]:
    """Measured photos of an archive in which nearly all are squares of 180 pixels."""
    random = np.random.default_rng(seed)
    square = random.uniform(size=n) < 0.98
    return [
        {
            "brightness": float(random.normal()),
            "longest_side": 180.0 if is_square else float(random.integers(200, 500)),
            "aspect": 1.0 if is_square else 4 / 3,
            "confidence": float(random.beta(50, 0.5)),
            "prediction": float(random.integers(0, 2)),
        }
        for is_square in square
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", lambda value: value + 9),
        ("brightness", lambda value: value - 9),
        ("longest_side", lambda _: 4032.0),
        ("longest_side", lambda _: 179.0),
        ("longest_side", lambda _: 181.0),
        ("aspect", lambda _: 4 / 3),
        ("aspect", lambda _: 0.75),
        ("confidence", lambda value: 1 - value / 2),
        ("prediction", lambda _: 1.0),
    ],
)
def test_a_quantity_that_moves_alone_is_found_alone(name: str, change: Callable[[float], float]):
    """Also where nearly all photos of the reference share one value, and beyond all of them."""
    window = Window(make_reference(archive(2000, 1), 2), 1000)
    for photo in archive(1000, 2):
        window.add(photo | {name: change(photo[name])})
    drifted = [q for q, drift in window.drifts().items() if drift.distance > 0.15 and drift.z > 6]
    assert drifted == [name]


def test_a_frequent_value_and_what_is_beyond_have_bins_of_their_own():
    """Below 180, 180, above it up to the largest, and above that."""
    counts = make_reference([{"longest_side": side} for side in (*[180.0] * 8, 300.0, 500.0)], 2)
    found = counts.quantities["longest_side"]
    by_value = [
        found.counts[int(np.searchsorted(found.edges, side, side="right"))] for side in (90, 180, 501)
    ]
    assert by_value == [0, 8, 0]
    assert sum(found.counts) == 10


def test_the_estimate_has_an_interval():
    """It holds the share of right answers in about 95 of 100 windows of a calibrated model."""
    random, held = np.random.default_rng(3), 0
    for _ in range(200):
        window, right = Window(None, 300), 0
        for confidence in random.beta(20, 1, 300):
            window.add({"confidence": float(confidence)})
            right += random.uniform() < confidence
        value, error = window.estimated_accuracy()
        held += abs(right / 300 - value) <= error
    assert 180 <= held <= 198


def test_windows_without_a_shift_raise_few_alarms():
    """The test's z is standard normal: above 3 in about one window of a thousand."""
    scores = [window_of(0, seed=seed).drifts()["brightness"].z for seed in range(1, 201)]
    assert sum(z > 3 for z in scores) <= 3
    assert abs(float(np.mean(scores))) < 0.3
    assert 0.7 < float(np.std(scores)) < 1.3


def test_a_shift_is_found():
    """Half a standard deviation in 500 photos is beyond doubt, and only in the quantity that shifted."""
    drifts = window_of(0.5).drifts()
    assert drifts["brightness"].z > 6
    assert drifts["brightness"].distance > 0.1
    assert drifts["prediction"].z < 3


def test_photos_in_columns_drift_as_in_a_window():
    """The studies compare with the reference as the service does."""
    window = window_of(0.5)
    columns = {name: np.array(values) for name, values in window.values().items()}
    assert drifts(make_reference(photos(2000), 2), columns) == window.drifts()


def test_a_window_forgets():
    """After as many photos as it holds, only those count."""
    window = window_of(5.0)
    for photo in photos(500, 0.0, seed=9):
        window.add(photo)
    assert window.photos == 500
    assert window.drifts()["brightness"].z < 4
    assert sum(window.report().quantities["brightness"].window) == 500


def test_an_empty_window_says_nothing():
    """No distance, no estimate, but still a report."""
    window = Window(make_reference(photos(100), 2), 10)
    assert window.drifts() == {}
    assert math.isnan(window.estimated_accuracy()[0])
    assert window.report().estimated_accuracy is None


def test_the_service_compares_its_window(tmp_path: Path):
    """For an artefact with a reference, `/drift` and the metrics report distance, test and n."""
    path = tiny.write_artifact(tmp_path / "model.pt")
    network, loaded = torchscript.load(path)
    values = measure(GREY, 64, 64, [0.5, 0.5], 0.1)
    reference = make_reference([values | {"brightness": b} for b in np.linspace(0, 1, 50)], 2)
    card = msgspec.structs.replace(loaded.card, reference=reference, unfamiliar_above=-1.0)
    torchscript.save(path, network, card, loaded.probe)
    with running(Settings(model=str(path), workers=1, drift_window=10)) as client:
        assert client.get("/drift").json()["photos"] == 0
        for _ in range(12):
            answer = client.post("/predict", content=encode(scene())).json()
        assert answer["unfamiliar"] is True
        report = client.get("/drift").json()
        assert list(report) == [
            *("photos", "size", "reference_photos", "reference_source"),
            *("estimated_accuracy", "estimated_accuracy_error", "quantities"),
        ]
        assert (report["photos"], report["size"], report["reference_photos"]) == (10, 10, 50)
        assert report["quantities"]["brightness"]["distance"] > 0.5
        text = client.get("/metrics").text
    assert "classifier_drift_window_photos 10.0" in text
    assert 'classifier_drift_distance_ratio{quantity="brightness"}' in text
    assert 'classifier_drift_test_z{quantity="brightness"}' in text
    assert "classifier_drift_estimated_accuracy_ratio" in text
    assert "classifier_predictions_unfamiliar_total 12.0" in text


def test_without_a_reference_there_is_no_drift(model: Path):
    """An older artefact: an empty window, and `unfamiliar` is null."""
    with running(Settings(model=str(model), workers=1)) as client:
        assert client.post("/predict", content=encode(scene())).json()["unfamiliar"] is None
        assert client.get("/drift").json() == {"photos": 0, "quantities": {}}
        values = client.get("/drift/window").json()["quantities"]
        assert {len(column) for column in values.values()} == {1}
        assert "classifier_drift" not in client.get("/metrics").text
