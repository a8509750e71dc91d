"""A larger network answers the training photos, and the served one learns from its answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from torch.nn import functional

from tests.tiny import UNCHANGED, train_config
from training import place
from training.__main__ import main
from training.fit.stage import fit
from training.network.task import distillation
from training.photos.data import Manifest, PhotoData, read_manifest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:"),
]
TAUGHT = ("--teacher.share", "0.5")


@pytest.fixture
def manifest(place: Path) -> Manifest:
    """Of drawn pictures; the folder's configuration is tiny."""
    (place / "configs").unlink()
    (place / "configs").mkdir()
    (place / "configs/train.yaml").write_text(yaml.safe_dump(asdict(train_config())))
    return read_manifest()


def plant(manifest: Manifest, answers: np.ndarray) -> None:
    """Answers as `teach` writes them."""
    place.TEACHER.parent.mkdir(exist_ok=True)
    np.savez(place.TEACHER, log_probabilities=answers, data_sha256=manifest.sha256, mlflow_run_id="run")


def test_the_teacher_is_trained_and_learned_from(manifest: Manifest):
    """One answer for each training photo, in a run of its own; the student's run names them."""
    Path("configs/teacher.yaml").write_text(
        yaml.safe_dump({"model": {"name": "teacher"}, "tracking": {"experiment": "teachers"}})
    )
    assert main(["teach", *TAUGHT]) == 0
    with np.load(place.TEACHER) as stored:
        answers, run = stored["log_probabilities"], str(stored["mlflow_run_id"])
    assert answers.shape == (len(manifest.splits["train"].targets), 2)
    assert np.allclose(np.exp(answers).sum(1), 1, atol=1e-5)
    assert not place.TEACHER_WORK.exists()
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    assert client.get_run(run).data.params["model.name"] == "teacher"
    assert client.get_run(run).data.params["teacher.share"] == "0.0"
    fit(train_config(*TAUGHT))
    (student,) = client.search_runs([client.get_experiment_by_name("cats-dogs").experiment_id])
    assert len(student.data.tags["teacher.sha256"]) == 64


def test_the_answers_of_a_photo_come_with_it(manifest: Manifest):
    """Whatever the order of the batches."""
    targets = manifest.splits["train"].targets
    answers = np.arange(2 * len(targets), dtype=np.float32).reshape(-1, 2)
    images = np.zeros((len(targets), 3, 8, 8), np.uint8)
    images[:, 0] = np.arange(len(targets))[:, None, None]  # the photo's number as its red
    config = train_config(*UNCHANGED, "--finetune.input_sizes", "[8]")
    loader = PhotoData(manifest, {"train": images}, config, answers).train_dataloader()
    seen = 0
    for photos, classes, teacher in loader:
        numbers = photos[:, 0, 4, 4].long()
        assert torch.equal(teacher, torch.from_numpy(answers)[numbers])
        assert classes.tolist() == [targets[number] for number in numbers]
        seen += len(photos)
    assert seen >= 8


def test_the_teacher_counts_for_its_share(manifest: Manifest):
    """With a share of 1 the labels have no say: taught that all are dogs, a network sees dogs."""
    count = len(manifest.splits["train"].targets)
    plant(manifest, np.log(np.tile([0.001, 0.999], (count, 1))).astype(np.float32))
    short = ("--head.epochs", "0", "--finetune.epochs_per_pass", "1", "--finetune.ema_decay", "0")
    fit(train_config(*short, "--loader.batch_size", "4", "--teacher.share", "1"))
    answers = np.exp(pd.read_csv(place.TRAIN_REPORT / "test_log_probabilities.csv")["dog"])
    assert answers.min() > 0.7


def test_distillation_is_least_where_both_agree():
    """0 for equal answers, and its gradient is (1-share aside) that of cross-entropy at temperature 1."""
    teacher = torch.randn(16, 3)
    assert float(distillation(teacher + 2.5, teacher, 3.0)) == pytest.approx(0, abs=1e-5)
    logits = torch.randn(16, 3, requires_grad=True)
    (ours,) = torch.autograd.grad(distillation(logits, teacher, 1.0), logits)
    (theirs,) = torch.autograd.grad(functional.cross_entropy(logits, teacher.softmax(1)), logits)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("planted", "words"),
    [(None, "Train the teacher first"), (0, "Train the teacher again"), (3, "Train the teacher again")],
)
def test_answers_that_do_not_fit_are_refused(
    manifest: Manifest, planted: int | None, words: str, capsys: pytest.CaptureFixture[str]
):
    """Absent, empty as without a teacher, or of other photos: exit 1 and the next step."""
    if planted is not None:
        plant(manifest, np.zeros((planted, 2), np.float32))
    assert main(["fit", *TAUGHT]) == 1
    assert words in capsys.readouterr().err


def test_no_teacher_is_no_work(manifest: Manifest, capsys: pytest.CaptureFixture[str]):
    """A share of 0: the stage says so and leaves an empty file for DVC."""
    assert main(["teach"]) == 0
    assert "no teacher is trained" in capsys.readouterr().out
    with np.load(place.TEACHER) as stored:
        assert stored["log_probabilities"].shape == (0, len(manifest.labels))
