"""The simulated month: who may spend labels, what is measured, what the gate refuses, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from common.errors import UserError
from serving.contract import artifact
from serving.contract.onnx import split
from serving.contract.reference import ALARM_DISTANCE
from serving.runtime.onnx import save
from tests.pictures import encode
from tests.tiny import ROOT
from training.study.month import head, results, seasons, simulation, tables
from training.study.month.backbone import Backbone
from training.study.month.head import Head
from training.study.month.photos import Photos, _seen
from training.study.month.simulation import HELD_OUT, LABELS, NO_LOOP, POLICIES, Chance, Loop, Month, simulate

RELEASED = ROOT / "models/release/model.onnx"
SCHEDULED, CHOSEN, ON_DRIFT = POLICIES[1], POLICIES[2], POLICIES[3]


@pytest.fixture(autouse=True)
def _lenient(monkeypatch: pytest.MonkeyPatch):
    """Two features need a lower penalty than 1,280."""
    monkeypatch.setattr(head, "_PENALTY", 0.1)


@pytest.fixture(scope="module")
def photos() -> Photos:
    """Two classes that a line divides; each world moves the line, and says so in a second feature."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 1600)
    signal = (2 * targets - 1) + random.normal(0, 0.4, 1600)
    worlds = np.arange(len(seasons.WORLDS), dtype=float)[:, None]  # [W,1]
    moved = np.stack(np.broadcast_arrays(signal + 0.8 * worlds, worlds + 0 * signal), 2)  # [W,N,2]
    return Photos(
        features=moved[:, :1200].astype(np.float32),
        quantities={
            "brightness": random.normal(0, 1, (len(worlds), 1200)) + worlds,
            "feature_distance": random.uniform(0, 1, (len(worlds), 1200)),
        },
        targets=targets[:1200],
        replay=moved[0, 1200:].astype(np.float32),
        replay_targets=targets[1200:],
        model="pets 1",
        released=Head(np.array([[-4.0, 0.0], [4.0, 0.0]]), np.zeros(2)),
        uncertain_below=0.95,
        unfamiliar_above=0.99,
    )


def chance(photos: Photos, seed: int = 0) -> Chance:
    """What a seed decides."""
    return Chance.draw(len(photos.targets), seed)


def test_without_a_loop_no_label_is_spent(photos: Photos):
    """The released model answers all month, and loses what the seasons take."""
    month = simulate(photos, NO_LOOP, chance(photos))
    assert month.labels == [0] * seasons.DAYS
    assert month.released == month.refused == []
    assert month.accuracy[0] > 0.98
    assert min(month.accuracy) < 0.8


def test_a_schedule_retrains_on_its_days(photos: Photos):
    """Four times a month, with as many labels each, and the answers become better."""
    month = simulate(photos, SCHEDULED, chance(photos))
    assert sorted(month.released + month.refused) == [7, 14, 21, 28]
    assert month.labels[-1] == 4 * LABELS
    assert np.mean(month.accuracy) > np.mean(simulate(photos, NO_LOOP, chance(photos)).accuracy) + 0.05


def test_drift_retrains_only_after_an_alarm(photos: Photos, monkeypatch: pytest.MonkeyPatch):
    """Not before the first change, and on no day within the limit; never without a change."""
    month = simulate(photos, ON_DRIFT, chance(photos))
    days = sorted(month.released + month.refused)
    assert days
    assert days[0] >= seasons.SEASONS[1].first
    assert all(month.distance[day - 1] > ALARM_DISTANCE for day in days)
    monkeypatch.setattr(simulation, "shares", lambda _: seasons.shares(1))
    assert simulate(photos, ON_DRIFT, chance(photos)).labels[-1] == 0


def test_the_reference_moves_with_a_release(photos: Photos):
    """The photos of the new world are normal from then on."""
    loop = Loop(photos, chance(photos))
    before = max(drift.distance for drift in loop.drifts(16))
    at = loop.photos_to_label(16, chosen=False)
    assert loop.retrain(16, at, photos.targets[at[1]])
    assert before > 5 * max(drift.distance for drift in loop.drifts(16))


def test_no_photo_is_labelled_twice_or_labelled_and_measured(photos: Photos):
    """The parts of a seed share no photo, and labels come from one of them alone."""
    drawn = chance(photos)
    loop = Loop(photos, drawn)
    for day in (7, 14, 21, 28):
        at = loop.photos_to_label(day, chosen=True)
        loop.retrain(day, at, photos.targets[at[1]])
    assert len(loop.labelled) == len(set(loop.labelled)) == 4 * LABELS
    assert drawn.labelling[loop.labelled].all()
    assert not drawn.labelling[drawn.measured].any()
    assert not drawn.labelling[drawn.old].any()
    assert not set(drawn.measured) & set(drawn.old)


def test_the_accuracy_is_of_the_measured_photos_in_the_mixture_of_the_day(photos: Photos):
    """Weighted by the shares of the worlds, with the answers of the model of the morning."""
    drawn = chance(photos)
    loop = Loop(photos, drawn)
    right = photos.released.probabilities(photos.features).argmax(2) == photos.targets
    expected = sum(
        share * right[world, drawn.measured].mean() for world, share in enumerate(seasons.shares(12))
    )
    assert loop.accuracy(12) == pytest.approx(expected)


def test_chosen_photos_are_uncertain_or_unfamiliar_after_a_random_share(photos: Photos):
    """The random share is that of the random policy; then come those that the queue keeps at sight."""
    strict = replace(photos, unfamiliar_above=0.7)
    at, other = (Loop(strict, chance(photos)).photos_to_label(14, chosen=chosen) for chosen in (True, False))
    assert (at[1][:HELD_OUT] == other[1][:HELD_OUT]).all()

    def kept(at: simulation.At) -> float:
        sure = photos.released.probabilities(photos.features)[at].max(1) >= strict.uncertain_below
        familiar = photos.quantities["feature_distance"][at] <= strict.unfamiliar_above
        return float((~(sure & familiar))[HELD_OUT:].mean())

    assert kept(at) == 1
    assert kept(other) < 0.8


@pytest.mark.parametrize("swapped", [False, True])
def test_the_gate_refuses_a_poisoned_batch(photos: Photos, swapped: bool):
    """Swapped labels would turn the model round, if old photos are few; right ones do not."""
    few = replace(photos, replay=photos.replay[:20], replay_targets=photos.replay_targets[:20])
    loop = Loop(few, chance(photos))
    answers = loop.answers
    at = loop.photos_to_label(4, chosen=False)
    truth = photos.targets[at[1]]
    assert loop.retrain(4, at, 1 - truth if swapped else truth) is not swapped
    assert (loop.answers is answers) is swapped, "the old model keeps answering"


def test_a_seed_decides_everything(photos: Photos):
    """The same seed gives the same month, another one another."""
    one, same, other = (simulate(photos, CHOSEN, chance(photos, seed)) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_the_seasons_come_in_and_go(photos: Photos):
    """The shares of a day are all of its photos, change by steps, and each world has its days."""
    days = np.array([seasons.shares(day) for day in range(-5, seasons.DAYS + 1)])
    assert days.sum(1) == pytest.approx(1.0)
    assert days[:6, 0] == pytest.approx(1.0)
    assert np.abs(np.diff(days, axis=0)).max() < 0.5
    assert (days.max(0) > 0.4).all()
    pixels = np.full((3, 16, 16), 200, np.uint8)
    assert (seasons.changed(pixels, seasons.WORLDS[seasons.AS_TAKEN], 0) == pixels).all()
    assert seasons.changed(pixels, seasons.WORLDS["night"], 0).mean() < 100


def months(**accuracies: tuple[float, float]) -> dict[str, list[Month]]:
    """Two months of each policy with an even accuracy, and 50 labels where there is a loop."""
    return {
        policy.name: [
            Month(
                [accuracy] * seasons.DAYS, [0.1] * seasons.DAYS, [50 * (policy is not NO_LOOP)] * seasons.DAYS
            )
            for accuracy in accuracies.get(policy.name.replace(" ", "_").replace(",", ""), (0.9, 0.92))
        ]
        for policy in POLICIES
    }


def test_the_tables_are_of_the_months():
    """Points and labels are differences within a seed: two points for 50 labels cost 25 labels each."""
    found = results.summarise("pets 1", 100, months(schedule_random=(0.92, 0.94)))
    by_name = {line.policy: line for line in found.lines}
    line = by_name[SCHEDULED.name]
    assert (line.points_gained.value, line.points_gained.low) == pytest.approx((2.0, 2.0))
    assert line.points_per_100_labels.value == pytest.approx(4.0)
    text = tables.as_markdown(found)
    assert (
        f"| {SCHEDULED.name} | 93.00% [90.23%, 95.77%] | 2.00 [2.00, 2.00] | 50 [50, 50] | 25 [25, 25] |"
        in text
    )
    assert f"| {NO_LOOP.name} | 91.00% [88.23%, 93.77%] |  | 0 [0, 0] |  |" in text
    assert f"| {CHOSEN.name} | {SCHEDULED.name} | -2.00 [-2.00, -2.00] | +0 [+0, +0] | worse |" in text


def test_a_gain_that_is_not_shown_has_no_price():
    """Better in one month and worse in the other: neither a price nor a verdict."""
    found = results.summarise("pets 1", 100, months(schedule_random=(0.92, 0.91)))
    text = tables.as_markdown(found)
    assert "| 50 [50, 50] | no gain shown |" in text
    assert (
        f"| {CHOSEN.name} | {SCHEDULED.name} | -0.50 [-4.66, +3.66] | +0 [+0, +0] | no difference shown |"
        in text
    )


def test_policies_are_compared_if_they_differ_in_one_thing():
    """Random against chosen, schedule against drift, and never both at once."""
    pairs = {(one.name, other.name) for one, other in results.CONTRASTS}
    assert len(pairs) == 4
    assert (POLICIES[4].name, POLICIES[1].name) not in pairs


def test_the_released_network_is_its_features_and_its_head():
    """The head on the tapped features gives the artefact's own answer."""
    backbone = Backbone(RELEASED)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224), dtype=np.uint8)
    features, probabilities, distance = backbone.run(pixels)
    assert backbone.head.probabilities(features) == pytest.approx(probabilities, abs=1e-4)
    assert 0 <= distance <= 2


def test_what_was_seen_is_not_computed_again(workplace: Path):
    """An interrupted study resumes: features and quantities of a world come from its file."""
    looks = []

    class Counted:
        card = SimpleNamespace(input_size=32)

        def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
            looks.append(pixels.mean())
            return np.full(4, pixels.mean()), np.array([0.2, 0.8]), 0.5

    paths = [workplace / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(Image.new("RGB", (40, 20), (50 * number,) * 3), "PNG"))
    first, again = (_seen(Counted(), paths, "night", workplace / "cache", "model", "night") for _ in range(2))
    assert len(looks) == len(paths)
    assert all((first[name] == again[name]).all() for name in first)
    assert first["features"].shape == (4, 4)
    assert first["longest_side"].tolist() == [40] * 4
    assert first["brightness"].max() < 0.1, "night"
    _seen(Counted(), paths, seasons.AS_TAKEN, workplace / "cache", "model", seasons.AS_TAKEN)
    assert len(looks) == 2 * len(paths)


def test_a_network_without_a_linear_head_is_refused(tmp_path: Path):
    """The error names the file and what to do."""
    loaded = artifact.read(RELEASED)
    graph = onnx.load_model_from_string(split(RELEASED.read_bytes())[0])
    for node in graph.graph.node:
        node.op_type = node.op_type.replace("Gemm", "MatMul")
    path = tmp_path / "model.onnx"
    save(path, graph.SerializeToString(), loaded.card, loaded.probe)
    with pytest.raises(UserError, match=r"model.onnx has no linear head.*make export"):
        Backbone(path)
