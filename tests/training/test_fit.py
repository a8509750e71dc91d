"""Training that is cut goes on as if it had not been, and leaves nothing half."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import ImageOps
from torch.utils.data import DataLoader, Dataset, TensorDataset

from common.files import sha256
from serving.runtime import torchscript
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from tests.pictures import encode
from tests.tiny import ROOT, SIDE, TRAIN, data_config, train_config
from training import place as files_of
from training import workplace
from training.__main__ import main
from training.export.stage import export, fit_temperature
from training.fit.stage import fit
from training.fit.trainer import run_trainer
from training.network.build import build
from training.network.task import ClassificationTask, Optimisation
from training.photos.data import read_manifest
from training.photos.drawn import draw
from training.photos.prepare import prepare
from training.photos.sources import fetch

pytestmark = pytest.mark.filterwarnings(
    # Lightning and MLflow on their own account
    "ignore:.*LeafSpec.*:",
    "ignore:.*Checkpoint directory.*:",
    "ignore:.*does not have many workers.*:",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def weights() -> dict[str, torch.Tensor]:
    """What the checkpoint holds."""
    state: dict[str, torch.Tensor] = torch.load(files_of.CHECKPOINT, weights_only=True)["state_dict"]
    return state


def test_a_resumed_training_equals_an_unbroken_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Cut in the head's second epoch, then by Ctrl-C and a crash in fine-tuning: the same weights.

    It also goes on in the same MLflow run, and the progress made is kept.
    """
    fit(train_config())
    unbroken = weights()
    files_of.CHECKPOINT.unlink()

    start = ClassificationTask.on_train_epoch_start
    faults = {
        ("head", 1): RuntimeError("power cut"),
        ("finetune", 1): KeyboardInterrupt(),
        ("finetune", 2): RuntimeError("power cut"),
    }
    epochs = []

    def faulty(self: ClassificationTask) -> None:
        epochs.append((self.phase, self.current_epoch))
        if fault := faults.pop(epochs[-1], None):
            raise fault
        start(self)

    monkeypatch.setattr(ClassificationTask, "on_train_epoch_start", faulty)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(train_config())
    with pytest.raises(KeyboardInterrupt):
        fit(train_config())
    assert not files_of.CHECKPOINT.exists()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(train_config())
    fit(train_config())
    assert [epoch for phase, epoch in epochs if phase == "head"] == [0, 1, 1]
    assert [epoch for phase, epoch in epochs if phase == "finetune"] == [0, 1, 1, 2, 2]
    resumed = weights()
    for name, tensor in unbroken.items():
        assert torch.equal(resumed[name], tensor), name
    assert capsys.readouterr().out.count("going on with the unfinished training") == 3
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    runs = client.search_runs([client.get_experiment_by_name("cats-dogs").experiment_id])
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not list((place / files_of.WORK).iterdir())


def test_another_configuration_begins_afresh(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Progress of one configuration is never taken for that of another."""

    def cut(_: ClassificationTask) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_validation_epoch_end", cut)
        with pytest.raises(KeyboardInterrupt):
            fit(train_config("--finetune.input_sizes", "[]"))
    fit(train_config("--finetune.input_sizes", "[]", "--seed", "18"))
    assert len(list((place / files_of.WORK).iterdir())) == 1, "the cut one's progress waits"


def test_a_cycle_runs_to_its_end_however_validation_goes(tmp_path: Path):
    """At its highest rates validation looks worse than before; the best weights are chosen at the end."""
    torch.manual_seed(1)
    rows = torch.randn(64, 4)
    classes = (rows[:, 0] > 0).long()
    task = ClassificationTask(torch.nn.Linear(4, 2), 2, "head", Optimisation(0.1, 0.0))
    loss = run_trainer(
        train_config(),
        task,
        None,
        tmp_path,
        12,
        [],
        train_dataloaders=DataLoader(TensorDataset(rows, classes), 16),
        val_dataloaders=DataLoader(TensorDataset(rows, 1 - classes), 16),  # what is learned makes it worse
    )
    assert task.trainer.current_epoch == 12
    assert float(task.trainer.callback_metrics["head_val_loss"]) > loss, "the last epoch was not the best"
    with torch.no_grad():
        kept = float(torch.nn.functional.cross_entropy(task(rows), 1 - classes))
    assert kept == pytest.approx(loss, rel=1e-4)


def train_rows(work: Path, rows: Dataset[Any], workers: int = 0) -> None:
    """Up to 50 epochs of `rows`, pairs of 4 numbers and a class."""
    task = ClassificationTask(torch.nn.Linear(4, 2), 2, "head", Optimisation(0.1, 0.0))
    loader = DataLoader(rows, 4, num_workers=workers)
    run_trainer(train_config(), task, None, work, 50, [], train_dataloaders=loader, val_dataloaders=loader)


ROWS = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))


def test_ctrl_c_is_heard_while_a_worker_is_forked(tmp_path: Path):
    """Python drops what a signal raises in there; the training must end all the same, and hear the next."""
    forks = iter(range(10_000))
    listening = [True]

    def press() -> None:
        if listening and next(forks) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    os.register_at_fork(after_in_parent=press)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_rows(tmp_path, ROWS, workers=1)
    finally:
        listening.clear()
    assert next(forks) < 10, "it went on for long after"
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "last.ckpt").exists()


class Pressing(Dataset[Any]):
    """Rows whose third in the second epoch comes with so many signals."""

    def __init__(self, presses: int) -> None:
        self._presses, self.asked = presses, 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        if self.asked == 27:  # an epoch asks for 8 to train and 8 to validate
            for _ in range(self._presses):
                signal.raise_signal(signal.SIGINT)
        return ROWS[index]


@pytest.mark.parametrize(("presses", "asked"), [(1, 28), (2, 27)])
def test_one_ctrl_c_ends_after_the_batch_and_two_at_once(tmp_path: Path, presses: int, asked: int):
    """So no batch is cut unless a person insists."""
    rows = Pressing(presses)
    with pytest.raises(KeyboardInterrupt):
        train_rows(tmp_path, rows)
    assert rows.asked == asked


def test_a_training_in_the_background_stays_deaf_to_ctrl_c(tmp_path: Path):
    """A script starts it so; the Ctrl-C that ends the script is not for it."""
    rows = Pressing(2)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train_rows(tmp_path, rows)
    finally:
        signal.signal(signal.SIGINT, before)
    assert rows.asked == 50 * 16


@pytest.mark.parametrize("heard", [True, False])
def test_a_training_within_another_ends_well_on_ctrl_c(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: Callable[..., dict[str, str]],
    *,
    heard: bool,
):
    """Whether the terminal sends it to both, or somebody to the outer one alone."""
    monkeypatch.setattr(workplace, "_HEARD_IT_TOO", 30.0 if heard else 0.1)
    script = f"""
import os, pathlib, signal, time
try:
    os.kill(os.getppid(), signal.SIGINT)
    {"signal.raise_signal(signal.SIGINT)" if heard else "time.sleep(60)"}
except KeyboardInterrupt:
    time.sleep(1)
    pathlib.Path("kept").touch()
"""
    with pytest.raises(KeyboardInterrupt):
        workplace.run([sys.executable, "-c", script], tmp_path, environment())
    assert (tmp_path / "kept").exists()


@pytest.mark.usefixtures("place")
def test_export_is_calibrated_proven_and_registered(capsys: pytest.CaptureFixture[str]):
    """The artefact answers as the checkpoint does, over the temperature; MLflow has file and alias."""
    fit(train_config())
    export(train_config())
    assert re.search(
        r"registered in MLflow as cats-dogs version \d+, alias @challenger", capsys.readouterr().out
    )
    traced, loaded = torchscript.load(files_of.MODEL)
    network = build(train_config().model, 2).eval()
    network.load_state_dict(weights())
    images = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.inference_mode():
        expected = torch.softmax(network(images) / loaded.card.temperature, 1)
        assert torch.allclose(traced(images), expected, atol=1e-5)
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    version = client.get_model_version_by_alias("cats-dogs", "challenger")
    assert version.tags["sha256"] == loaded.sha256
    run = client.get_run(loaded.card.lineage.mlflow_run_id)
    assert run.data.params["model.backbone"] == "compact"
    assert run.data.tags.keys() >= {"git_commit", "data.manifest_sha256", "model.sha256", "best_phase"}
    assert run.data.metrics.keys() >= {"test_accuracy", "validation_log_loss", "head_val_loss", "temperature"}
    files = {f.path for folder in ("", "test") for f in client.list_artifacts(run.info.run_id, folder)}
    assert files >= {"curves.png", "test/confusion_matrix.png", "test/worst_mistakes.png"}
    _export_enlarged(network, images)
    _export_in_int8(client)


def _export_enlarged(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Of the same checkpoint: the graph enlarges what comes in, and the card measures that network."""
    export(train_config("--export.read_size", "96"))
    handler = _served()
    card = handler.artifact.card
    assert (card.input_size, card.read_size) == (SIDE, 96)
    assert card.version.endswith("-96px")
    with torch.inference_mode():
        enlarged = torch.nn.functional.interpolate(images.float(), (96, 96), mode="bilinear")
        expected = torch.softmax(network(enlarged) / card.temperature, 1)
        model, _ = torchscript.load(files_of.MODEL)
        assert torch.allclose(model(images), expected, atol=1e-5)
        assert model.explain(images).shape == (len(images), 2, 3, 3), "a map's side is a 32nd of what is read"
    assert card.metrics["accuracy"].value == pytest.approx(_accuracy_on_test(handler))


def _served() -> ImageClassifierHandler:
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(files_of.MODEL))
    return handler


def _accuracy_on_test(handler: ImageClassifierHandler) -> float:
    manifest = read_manifest()
    answers = handler.handle([{"body": p.read_bytes()} for p in manifest.splits["test"].paths])
    right = [
        answer.prediction == manifest.labels[target]
        for answer, target in zip(answers, manifest.splits["test"].targets, strict=True)
    ]
    return float(np.mean(right))


def _export_in_int8(client: MlflowClient) -> None:
    """Of the same checkpoint: the card measures the int8 network, and both versions keep their file."""
    first = client.get_model_version_by_alias("cats-dogs", "challenger")
    export(train_config("--export.precision", "int8", "--export.calibration_photos", "20"))
    handler = _served()
    card = handler.artifact.card
    assert card.precision == "int8"
    assert card.version.endswith("-int8")
    assert "quantized::" in str(torchscript.load(files_of.MODEL)[0].inlined_graph)
    assert card.metrics["accuracy"].value == pytest.approx(_accuracy_on_test(handler))
    second = client.get_model_version_by_alias("cats-dogs", "challenger")
    assert second.version != first.version
    for version in (first, second):
        stored = Path(version.source.removeprefix("file://")) / "model.pt"
        assert sha256(stored) == version.tags["sha256"]


def test_three_classes_work_to_the_end(workplace: Path):
    """Three folders named for three animals: the artefact has their names and three probabilities."""
    for label in ("Cat", "Dog", "Parrot"):
        (workplace / "pets" / label).mkdir(parents=True)
        for number in range(14):
            picture = draw("cat" if label == "Cat" else "dog", np.random.default_rng((len(label), number)))
            picture = ImageOps.invert(picture) if label == "Parrot" else picture
            (workplace / "pets" / label / f"{number}.jpg").write_bytes(encode(picture))
    fetch(data_config("--fetch.source", "pets").fetch)
    prepare(data_config().prepare)
    fit(train_config("--finetune.input_sizes", "[]"))
    export(train_config())
    answer = _served().handle([{"body": (workplace / "pets/Dog/0.jpg").read_bytes()}])[0]
    assert list(answer.probabilities) == ["cat", "dog", "parrot"]
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("place")
def test_ctrl_c_while_exporting_leaves_the_earlier_artefact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Exit 130; the old file whole, no half of the new one."""
    fit(train_config("--finetune.input_sizes", "[]"))
    files_of.MODEL.write_bytes(b"earlier")

    def interrupted(_: object, name: str, **__: object) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.jit, "save", interrupted)
    assert main(["export", *TRAIN]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert files_of.MODEL.read_bytes() == b"earlier"
    assert sorted(p.name for p in files_of.MODEL.parent.iterdir()) == [
        "checkpoint.ckpt",
        "model.pt",
        "run.json",
    ]


def test_a_real_ctrl_c_in_training_is_told_and_kept(place: Path, environment: Callable[..., dict[str, str]]):
    """SIGINT to the process group: exit 130, no trace, no checkpoint under its final name."""
    long = ["--finetune.input_sizes", str(500 * [SIDE]), "--loader.workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "fit", *TRAIN, *long],
        env=environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "going on" in line or "finetune:" in line:
            break
    deadline = time.monotonic() + 60
    while not list((place / files_of.WORK).glob("*/finetune/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted: nothing half-written was left" in rest
    assert "Traceback" not in rest
    assert not (place / files_of.CHECKPOINT).exists()
    assert list((place / files_of.WORK).glob("*/finetune/last.ckpt"))


def test_a_worker_whose_parent_hung_up_tells_nothing(environment: Callable[..., dict[str, str]]):
    """As at Ctrl-C in the middle of a batch; a fault of its own is told."""
    code = (
        "import os, sys, training.fit.trainer\n"
        "worker = os.fork()\n"
        "if not worker:\n"
        "    for error in (EOFError('hung up'), ConnectionResetError('hung up'), ValueError('a fault')):\n"
        "        sys.excepthook(type(error), error, None)\n"
        "    os._exit(0)\n"
        "os.waitpid(worker, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ValueError: a fault" in done.stderr
    assert "hung up" not in done.stderr


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["fit"], "Prepare the photos first"),
        (["export"], "Train first"),
        (["fit", "--head.epochs", "0", "--finetune.input_sizes", "[]"], "make data"),
    ],
)
def test_a_stage_without_its_input_names_the_earlier_one(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 1 and the next step."""
    assert main(command) == 1
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("damage", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused(damage: bytes, capsys: pytest.CaptureFixture[str]):
    """It is never unpickled as code, and the next step is named."""
    files_of.CHECKPOINT.parent.mkdir()
    files_of.CHECKPOINT.write_bytes(damage)
    files_of.RUN.write_text("{}")
    assert main(["export"]) == 1
    assert "is damaged. Train again" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_tracking_server_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Before hours of training, not after."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["fit", *TRAIN]) == 1
    assert "MLflow at http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_the_temperature_is_found():
    """Logits made too sharp by a known factor: the fit finds the factor."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((20_000, 2), generator=generator, dtype=torch.float64) * 2
    targets = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
    log_probabilities = torch.log_softmax(logits * 3, 1)
    assert fit_temperature(log_probabilities.numpy(), targets.numpy()) == pytest.approx(3, rel=0.05)
