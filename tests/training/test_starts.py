"""`python -m training continue`: a second training, from the released model; the better network is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from common.files import sha256
from evaluation.figures import metrics
from serving.contract import artifact
from serving.runtime.load import reseal
from tests.tiny import HEAD_ALONE, TRAIN, train_config, write_artifact
from tests.training.marks import LIBRARIES_WARNINGS_IGNORED
from training.__main__ import main
from training.fit import checkpoint, phases, predictions
from training.fit.job import Job
from training.fit.predictions import Predictions
from training.photos.manifest import read_manifest
from training.place import Place
from training.starts import choose

pytestmark = LIBRARIES_WARNINGS_IGNORED

RELEASED = "models/release/model.pt"
KEPT = {True: "from_start", False: "from_champion"}
"""Which network is kept, by whether that from the start is right."""


@pytest.fixture
def released(trained: Place) -> Place:
    """A folder with a network trained from the start, and a released model of other weights."""
    write_artifact(trained.root / RELEASED)
    return trained


def train_on(*more: str) -> int:
    """The command, with the shortest training of the tiny network."""
    return main(["continue", *TRAIN, *HEAD_ALONE, "--model.weights", RELEASED, *more])


def from_start_is(right: bool, place: Place) -> None:
    """Make the network from the start always right about validation, or always wrong."""
    manifest = read_manifest(place)
    targets = np.array(manifest.splits["validation"].targets)
    probabilities = np.full((len(targets), 2), 0.01 if right else 0.99)
    probabilities[np.arange(len(targets)), targets] = 0.99 if right else 0.01
    predictions.write(
        place.train_report, "validation", Predictions(np.log(probabilities), targets), manifest.labels
    )


def files(place: Place) -> dict[str, bytes]:
    """What the export reads of a training, by name."""
    paths = [place.checkpoint, place.run, *place.train_report.iterdir()]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


@pytest.mark.parametrize("right", [True, False])
def test_validation_chooses_between_the_two_starts(
    released: Place, right: bool, capsys: pytest.CaptureFixture[str]
):
    """All three files are of the better network, and the figures of both stay."""
    from_start_is(right, released)
    before, first = files(released), sha256(released.checkpoint)
    assert train_on() == 0
    own = Place(released.continued)
    assert files(released) == (before if right else files(own))
    found = json.loads(released.starts.read_text())
    loaded = artifact.read(released.root / RELEASED)
    assert found["kept"] == KEPT[right]
    assert found["champion"] == {"version": loaded.card.version, "sha256": loaded.sha256}
    assert (found["from_start"]["weights"], found["from_champion"]["weights"]) == ("none", RELEASED)
    assert found["from_start"]["checkpoint_sha256"] == first
    assert (found["from_start"]["loss"] < found["from_champion"]["loss"]) == right
    second = predictions.read(own.train_report, "validation")
    assert found["from_champion"]["loss"] == metrics.calibrated_loss(second.log_probabilities, second.targets)
    assert found["from_start"]["accuracy"]["value"] == right
    assert found["from_start"]["n"] == found["from_champion"]["n"] == len(second.targets)
    gap = found["from_champion"]["accuracy"]["value"] - right
    assert found["accuracy_difference"]["value"] == pytest.approx(gap)
    printed = capsys.readouterr().out
    assert f"Kept: the network from the {'start' if right else 'released model'}" in printed
    run = MlflowClient(f"sqlite:///{released.root}/mlflow.db").get_run(
        found["from_champion"]["mlflow_run_id"]
    )
    assert run.data.tags["champion.sha256"] == loaded.sha256
    assert run.data.tags["start.kept"] == KEPT[right]
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("right", [True, False])
def test_a_second_call_changes_nothing(
    released: Place, right: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Also where the present checkpoint is the continued one: it is not compared with itself."""
    from_start_is(right, released)
    assert train_on() == 0
    after = files(released) | {"starts": released.starts.read_bytes()}
    monkeypatch.setattr(choose, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert train_on() == 0
    assert files(released) | {"starts": released.starts.read_bytes()} == after
    assert "This has been done: nothing changes" in capsys.readouterr().out


@pytest.mark.slow
def test_a_new_checkpoint_from_the_start_is_compared_with_the_trained_one(
    released: Place, monkeypatch: pytest.MonkeyPatch
):
    """A forced `make train` replaces what was kept; the training from the released model is there already."""
    from_start_is(False, released)
    shutil.copytree(released.root / "models", released.root / "kept/models")
    shutil.copytree(released.train_report, released.root / "kept/reports/train")
    assert train_on() == 0
    shutil.copytree(released.root / "kept", released.root, dirs_exist_ok=True)
    monkeypatch.setattr(choose, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert train_on() == 0
    assert files(released) == files(Place(released.continued))


@pytest.mark.slow
@pytest.mark.parametrize("step", range(3))
def test_a_kill_between_the_files_leaves_what_a_rerun_completes(
    released: Place, step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Before checkpoint, report or run: an export refuses, and the rerun trains nothing."""
    from_start_is(False, released)
    copied: list[Callable[..., object]] = []

    def killed(copy: Callable[..., object], *given: Any, **options: Any) -> None:
        if len(copied) == step:
            raise KeyboardInterrupt
        copy(*given, **options)
        copied.append(copy)

    copies = {name: partial(killed, getattr(shutil, name)) for name in ("copyfile", "copytree")}
    with monkeypatch.context() as patch:
        patch.setattr(choose, "shutil", SimpleNamespace(**copies))
        assert train_on() == 130
    assert main(["export"]) == 2
    assert "There is no models/run.json" in capsys.readouterr().err
    monkeypatch.setattr(choose, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert train_on() == 0
    assert files(released) == files(Place(released.continued))


def test_an_interrupted_training_resumes_and_leaves_the_pipeline_alone(
    released: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In a folder of its own, with the decoded photos of the pipeline."""
    before, head = files(released), phases.train_head
    monkeypatch.setattr(phases, "train_head", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert train_on() == 130
    assert files(released) == before
    monkeypatch.setattr(phases, "train_head", head)
    assert train_on() == 0
    assert "resuming the unfinished training" in capsys.readouterr().out
    assert not Place(released.continued).decoded.exists()


def test_another_released_model_starts_over(released: Place):
    """Its weights are part of the recipe, whatever the file's name: an unfinished training is not resumed."""
    config = train_config("--model.weights", RELEASED)
    manifest = read_manifest(released)
    first = Job.plan(config, manifest, released).work
    write_artifact(released.root / RELEASED, seed=2)
    assert Job.plan(config, manifest, released).work != first


def same_photos(place: Place) -> None:
    """The released model was trained on the present photos."""
    path = place.root / RELEASED
    loaded = artifact.read(path)
    lineage = msgspec.structs.replace(loaded.card.lineage, data_hash=read_manifest(place).sha256)
    reseal(path, path, msgspec.structs.replace(loaded.card, lineage=lineage), loaded.probe)


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (
            lambda place: write_artifact(place.root / RELEASED, labels=("cat", "dog", "fox")),
            (),
            "its classes are",
        ),
        (lambda _: None, ("--model.input_size", "96"), "it takes 64 pixels"),
        (lambda _: None, ("--model.backbone", "resnet18"), "is not a resnet18"),
        (same_photos, (), "it was trained on exactly these photos"),
    ],
)
def test_a_released_model_that_cannot_be_trained_on_is_left(
    released: Place, prepare: Any, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
):
    """The reason is stated, the checkpoint stays, and no figures of an earlier call are left to mislead."""
    prepare(released)
    released.starts.parent.mkdir(parents=True)
    released.starts.write_text("{}")
    before = files(released)
    assert train_on(*options) == 0
    assert f"Nothing is trained from {RELEASED}: " in (printed := capsys.readouterr().out)
    assert words in printed
    assert files(released) == before
    assert not released.starts.exists()


def test_a_checkpoint_of_other_photos_is_refused(released: Place, capsys: pytest.CaptureFixture[str]):
    """The two would be compared on different photos."""
    run = replace(checkpoint.read_run(released.run), data_sha256="0" * 64)
    checkpoint.write_run(released.run, run)
    assert train_on() == 2
    assert "Train first: make train" in capsys.readouterr().err


def test_a_report_of_other_photos_is_refused(released: Place, capsys: pytest.CaptureFixture[str]):
    """A training that was killed before its report leaves the earlier one."""
    found = predictions.read(released.train_report, "validation")
    fewer = Predictions(found.log_probabilities[1:], found.targets[1:])
    predictions.write(released.train_report, "validation", fewer, ["cat", "dog"])
    assert train_on() == 2
    assert f"{Path('reports/train')} is of other photos" in capsys.readouterr().err


def test_without_a_released_model_the_next_step_is_named(trained: Place, capsys: pytest.CaptureFixture[str]):
    """Such as in a project that has released nothing yet."""
    assert trained.checkpoint.exists()
    assert train_on() == 2
    assert f"There is no model at {RELEASED}" in capsys.readouterr().err
