"""Interrupted training resumes exactly, and leaves nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch.utils.data import TensorDataset

from common.errors import PipelineError
from evaluation.figures import metrics
from tests.tiny import HEAD_ALONE, TRAIN, train_config
from tests.training.marks import LIBRARIES_WARNINGS_IGNORED
from tests.training.rows import RowData
from training.__main__ import main
from training.fit import checkpoint, phases, predictions
from training.fit.distributed import Processes
from training.fit.head import Score
from training.fit.job import Job
from training.fit.trainer import finetune
from training.network.build import build
from training.network.task import MONITORED, FinetuneTask
from training.photos.manifest import Split, read_manifest
from training.place import Place
from training.tracking import Tracker

pytestmark = LIBRARIES_WARNINGS_IGNORED


def train(place: Place, *overrides: str) -> None:
    """Train in `place`, like the command."""
    phases.fit(Job.plan(train_config(*overrides), read_manifest(place), place))


def test_resumed_training_equals_uninterrupted_training(
    place: Place, once_trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A crash in the head, then Ctrl-C and a crash in fine-tuning: the same weights in the end.

    It resumes the same MLflow run, and repeats no finished phase or epoch.
    """
    faults = {
        ("head", 0): RuntimeError("power cut"),
        ("finetune", 1): KeyboardInterrupt(),
        ("finetune", 2): RuntimeError("power cut"),
    }
    seen = []

    def now(*moment: str | int) -> None:
        seen.append(moment)
        if fault := faults.pop(moment, None):
            raise fault

    start, head = FinetuneTask.on_train_epoch_start, phases.train_head
    monkeypatch.setattr(
        FinetuneTask,
        "on_train_epoch_start",
        lambda self: now("finetune", self.current_epoch) or start(self),
    )
    monkeypatch.setattr(phases, "train_head", lambda *given: now("head", 0) or head(*given))
    for error in (RuntimeError, KeyboardInterrupt, RuntimeError):
        with pytest.raises(error):
            train(place)
        assert not place.checkpoint.exists()
    train(place)
    assert [epoch for phase, epoch in seen if phase == "head"] == [0, 0], "a trained head is kept"
    assert [epoch for phase, epoch in seen if phase == "finetune"] == [0, 1, 1, 2, 2]
    resumed = checkpoint.read(place.checkpoint).state_dict
    for name, tensor in checkpoint.read(Place(once_trained).checkpoint).state_dict.items():
        assert torch.equal(resumed[name], tensor), name
    assert capsys.readouterr().out.count("resuming the unfinished training") == 3
    client = MlflowClient(f"sqlite:///{place.root}/mlflow.db")
    (run,) = client.search_runs(
        [client.get_experiment_by_name(train_config().tracking.experiment).experiment_id]
    )
    assert run.info.status == "FINISHED"
    assert run.data.tags["best_phase"] == "finetune", "otherwise the weights compared are the head's"
    assert not list(place.work.iterdir())


def test_the_curves_begin_with_the_head(trained: Place):
    """One row for the head, then one per pass, each with all four figures."""
    curves = pd.read_csv(trained.train_report / "curves.csv")
    assert curves["phase"].tolist() == ["head", "finetune"]
    assert curves["step"].is_monotonic_increasing
    figures = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert curves[figures].notna().all(axis=None)
    client = MlflowClient(f"sqlite:///{trained.root}/mlflow.db")
    metrics = client.get_run(checkpoint.read_run(trained.run).mlflow_run_id).data.metrics
    assert metrics["head_val_loss"] == pytest.approx(curves["val_loss"][0])
    assert metrics["head_val_accuracy"] == pytest.approx(curves["val_accuracy"][0])


@pytest.mark.parametrize(("loss", "best"), [(0.0, "head"), (9.0, "finetune")])
def test_the_better_phase_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch, loss: float, best: str):
    """If fine-tuning makes the network worse, the head's network is restored."""
    heads = []

    def head(_: object, network: torch.nn.Module, *__: object) -> dict[str, Score]:
        heads.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return dict.fromkeys(
            ("train", "validation"), Score(9.0 - loss, loss, 0.5)
        )  # the loss before calibration does not decide

    monkeypatch.setattr(phases, "train_head", head)
    train(place, "--finetune.epochs_per_pass", "1")
    kept = checkpoint.read(place.checkpoint).state_dict
    assert all(torch.equal(kept[name], tensor) for name, tensor in heads[0].items()) == (best == "head")


def test_another_configuration_starts_over(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The progress of one configuration is never used for another."""

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phases, "train_head", cut)
        with pytest.raises(KeyboardInterrupt):
            train(place, *HEAD_ALONE)
    train(place, *HEAD_ALONE, "--seed", "18")
    assert len(list(place.work.iterdir())) == 1, "the progress of the interrupted training is kept"


def test_a_cycle_runs_to_its_end_whatever_the_validation_loss(tmp_path: Path):
    """Validation looks worse at the highest rates; the best weights are chosen at the end."""
    torch.manual_seed(1)
    rows = torch.randn(64, 4)
    classes = (rows[:, 0] > 0).long()
    data = RowData(
        TensorDataset(rows, classes),
        TensorDataset(rows, 1 - classes),  # what is learned makes it worse
        batch_size=16,
    )
    config = train_config(
        *("--finetune.input_sizes", "[1, 1, 1, 1]", "--finetune.ema_share", "0"),
        *("--finetune.learning_rate", "0.1", "--finetune.weight_decay", "0"),
    )
    task = FinetuneTask(torch.nn.Linear(4, 2), torch.ones(2), config.finetune)
    loss = finetune(config, task, data, None, tmp_path)
    assert task.trainer.current_epoch == 12
    assert float(task.trainer.callback_metrics[MONITORED]) > loss, "the last epoch was not the best"
    with torch.no_grad():
        kept = metrics.calibrated_loss(task(rows).double().numpy(), 1 - classes.numpy())
    assert kept == pytest.approx(loss, rel=1e-4)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("command", "words"),
    [(["fit"], "Prepare the photos first"), (["export"], "Train first"), (["ablation"], "make data")],
)
def test_a_stage_without_its_input_names_the_earlier_one(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 and the next step."""
    assert main(command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_training_without_a_phase_is_refused(capsys: pytest.CaptureFixture[str]):
    """Both phases are skipped."""
    assert main(["fit", *TRAIN, *HEAD_ALONE, "--head.enabled", "false"]) == 2
    assert "nothing to train" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused(place: Place, damage: bytes, capsys: pytest.CaptureFixture[str]):
    """It is never unpickled as code, and the error names the next step."""
    place.checkpoint.parent.mkdir()
    place.checkpoint.write_bytes(damage)
    place.run.write_text("{}")
    assert main(["export"]) == 2
    assert "is damaged. Train again" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_tracking_server_that_does_not_answer_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Before hours of training, not after."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["fit", *TRAIN]) == 2
    assert "MLflow at http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_training_without_the_cache_gives_the_same_weights(
    place: Place, once_trained: Path, capsys: pytest.CaptureFixture[str]
):
    """To the bit, and the same predictions on validation; nothing is kept on the disk."""
    train(place, "--loader.cache_limit", "0", "--loader.workers", "1")
    assert "train exceeds loader.cache_limit" in capsys.readouterr().out
    assert not list(place.decoded.glob("*/*"))
    cached = Place(once_trained)
    expected = checkpoint.read(cached.checkpoint).state_dict
    for name, tensor in checkpoint.read(place.checkpoint).state_dict.items():
        assert torch.equal(tensor, expected[name]), name
    table = "validation_log_probabilities.csv"
    assert (place.train_report / table).read_bytes() == (cached.train_report / table).read_bytes()


def test_workers_threads_and_cache_do_not_begin_a_training_again(place: Place):
    """What comes out does not depend on them, so another machine resumes."""
    manifest = read_manifest(place)
    plans = [
        Job.plan(train_config(*options), manifest, place).work
        for options in (
            [],
            ["--loader.workers", "1"],
            ["--trainer.threads", "1"],
            ["--loader.cache_limit", "0"],
            ["--loader.batch_size", "4"],
        )
    ]
    assert plans[0] == plans[1] == plans[2] == plans[3] != plans[4]


def test_a_run_is_finished_after_its_report_and_lost_runs_are_replaced(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Lightning ends its own logger earlier; and a deleted run does not hold up its training."""
    report, seen = phases.write_report, []

    def cut(job: Job, network: object, tracker: Tracker) -> None:
        del job, network
        assert place.checkpoint.exists()
        seen.append(tracker.client.get_run(tracker.run_id).info.status)
        seen.append(tracker.run_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(phases, "write_report", cut)
    with pytest.raises(KeyboardInterrupt):
        train(place)
    assert seen[0] == "RUNNING"
    client = MlflowClient(f"sqlite:///{place.root}/mlflow.db")
    client.delete_run(seen[1])
    monkeypatch.setattr(phases, "write_report", report)
    monkeypatch.setattr(phases, "git_commit", lambda: "other code")
    train(place)
    printed = capsys.readouterr().out
    assert "MLflow no longer has its run" in printed
    assert "the code has changed since this training began" in printed
    run = client.get_run(checkpoint.read_run(place.run).mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["git_commit"].endswith(" to other code")


@pytest.mark.parametrize("ema_share", ["0", "0.2"])
def test_a_diverged_training_keeps_the_head_or_says_so(
    place: Place, capsys: pytest.CaptureFixture[str], ema_share: str
):
    """Weights that are not finite are never chosen, averaged or not."""
    diverging = ("--finetune.learning_rate", "1e30", "--finetune.ema_share", ema_share)
    train(place, *diverging)
    assert "fine-tuning diverged: the head alone is kept" in capsys.readouterr().out
    assert all(tensor.isfinite().all() for tensor in checkpoint.read(place.checkpoint).state_dict.values())
    with pytest.raises(phases.Diverged, match=r"Lower finetune\.learning_rate"):
        train(place, *diverging, "--head.enabled", "false")
    with pytest.raises(phases.Diverged):  # a study asks for the fine-tuned network alone
        phases.fit(Job.plan(train_config(*diverging), read_manifest(place), place), keep="finetune")


def test_a_training_leaves_the_test_split_alone(trained: Place):
    """It is neither decoded nor predicted, and no figure of it reaches MLflow."""
    assert sorted(path.name for path in trained.decoded.glob("*/*.npy")) == ["train.npy", "validation.npy"]
    assert not list(trained.train_report.glob("*test*"))
    client = MlflowClient(f"sqlite:///{trained.root}/mlflow.db")
    run_id = checkpoint.read_run(trained.run).mlflow_run_id
    assert not [name for name in client.get_run(run_id).data.metrics if "test" in name]
    assert not [file.path for file in client.list_artifacts(run_id) if "test" in file.path]


def test_photos_of_production_are_never_trained_on(with_production: Place):
    """Neither the training nor its report reads them."""
    shutil.rmtree(with_production.decoded)
    for photo in read_manifest(with_production).splits["production"].paths:
        photo.unlink()
    train(with_production, *HEAD_ALONE)
    assert sorted(path.name for path in with_production.decoded.glob("*/*.npy")) == [
        "train.npy",
        "validation.npy",
    ]


def test_the_loss_of_the_better_phase_is_that_after_calibration(trained: Place):
    """MLflow has what the choice was made by."""
    client = MlflowClient(f"sqlite:///{trained.root}/mlflow.db")
    found = client.get_run(checkpoint.read_run(trained.run).mlflow_run_id).data.metrics
    validation = predictions.read(trained.train_report, "validation")
    calibrated = metrics.calibrated_loss(validation.log_probabilities, validation.targets)
    assert found["best_val_loss"] == pytest.approx(calibrated, rel=1e-3)
    assert found["best_val_loss"] < found["validation_log_loss"]


@pytest.mark.parametrize(
    ("balance", "expected"), [("0", [1.0, 1.0]), ("1", [2.0, 2 / 3]), ("0.5", [1.464, 0.845])]
)
def test_rare_classes_weigh_what_the_owner_says(place: Place, balance: str, expected: list[float]):
    """From photos alike to classes alike; the mean over the photos is 1, so that the loss keeps its scale."""
    job = Job.plan(train_config("--class_balance", balance), read_manifest(place), place)
    job.manifest.splits["train"] = Split([], [0] * 10 + [1] * 30)
    weights = phases._class_weights(job)
    assert weights == pytest.approx(expected, abs=1e-3)
    assert weights @ [10, 30] == pytest.approx(40)


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_nobody_configured_are_refused(variable: str, monkeypatch: pytest.MonkeyPatch):
    """Four tasks of SLURM or torchrun with a configuration for one would overwrite each other's files."""
    monkeypatch.setenv(variable, "4")
    with pytest.raises(PipelineError, match=r"started 4 processes, but trainer\.devices=1 .* make 1"):
        Processes(train_config().trainer)
    monkeypatch.setenv(variable, "1")
    assert Processes(train_config().trainer).is_first


def test_torchrun_s_number_counts_where_srun_starts_it(monkeypatch: pytest.MonkeyPatch):
    """One task of SLURM for each machine, and torchrun in it."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    Processes(train_config().trainer)


def test_little_shared_memory_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A container has 64 MB by default; torch's own words are kept as the cause."""
    words = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"

    def fit(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("lightning.Trainer.fit", fit)
    task = FinetuneTask(build(train_config().model, 2), torch.ones(2), train_config().finetune)
    rows = TensorDataset(torch.zeros(4, 3), torch.zeros(4))
    data = RowData(rows, rows, 2)
    with pytest.raises(PipelineError, match=r"too little shared memory .*--shm-size 1g.*loader\.workers=0"):
        finetune(train_config(), task, data, None, tmp_path)
