"""The pipeline of dvc.yaml: what it writes, and what a change reruns."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.contract import artifact
from tests.pipeline.conftest import Pipeline
from tests.tiny import ROOT, write_artifact

pytestmark = [
    # The first test runs the pipeline for all: commands that import torch are slow on a busy machine.
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),  # from within DVC
]
STAGES = ["fetch", "prepare", "train", "export", "evaluate"]


def test_the_pipeline_runs_every_stage_and_a_second_time_none(pipeline: Pipeline):
    """In order; then nothing has changed, so nothing runs."""
    assert re.findall(r"Running stage '(\w+)'", pipeline.output) == STAGES
    assert pipeline.would_run() == []


def test_the_outputs_of_the_stages_belong_together(pipeline: Pipeline):
    """Artefact, figures, run and manifest refer to each other."""
    loaded = artifact.read(pipeline.folder / "models/model.pt")
    figures = json.loads((pipeline.folder / "reports/evaluation/metrics.json").read_text())
    run = json.loads((pipeline.folder / "models/run.json").read_text())
    assert figures["model"]["sha256"] == loaded.sha256
    assert figures["mlflow_run_id"] == run["mlflow_run_id"] == loaded.card.lineage.mlflow_run_id
    assert loaded.card.lineage.data_hash == run["data_sha256"]
    # the serving handler and the trainer's own predictions agree about validation
    assert figures["accuracy"]["value"] == pytest.approx(loaded.card.metrics["accuracy"].value, abs=1e-9)
    assert figures["log_loss"]["value"] == pytest.approx(loaded.card.metrics["log_loss"].value, abs=1e-3)


def test_no_photo_and_no_path_of_this_machine_is_committed(pipeline: Pipeline):
    """What git tracks is text without a machine in it; photos and models are DVC's."""
    tracked = pipeline.run("git", "ls-files", "data", "models", "reports", "dvc.lock").split()
    suffixes = {Path(name).suffix for name in tracked}
    assert not suffixes & {".jpg", ".png", ".pt", ".ckpt", ".csv"}
    for name in tracked:
        assert str(pipeline.folder) not in (pipeline.folder / name).read_text()


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (("train.yaml", "tracking", "alias", "other"), None),
        (("train.yaml", "export", "accepted_error_max", 0.1), "export"),
        (("train.yaml", "finetune", "learning_rate", 0.02), "train"),
        (("data.yaml", "prepare", "salt", "other"), "prepare"),
        (("data.yaml", "fetch", "sample_per_class", 41), "fetch"),
    ],
)
def test_a_changed_parameter_reruns_what_depends_on_it(
    changeable: Pipeline, change: tuple[str, ...], first: str | None
):
    """Only that: the first affected stage, and all after it."""
    name, *keys, value = change
    changeable.change(name, *keys, value=value)
    assert changeable.would_run() == (STAGES[STAGES.index(first) :] if first else [])


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("training/photos/fetch.py", "prepare"),  # never the fetch itself: see dvc.yaml
        ("training/fit/head.py", "train"),
        ("training/export/strangers.py", "export"),
        ("serving/contract/reference.py", "prepare"),
        ("serving/engine/workers.py", None),
        ("evaluation/figures/metrics.py", "train"),
        ("evaluation/artefact/offline.py", "evaluate"),
        ("requirements/train.txt", "prepare"),
        ("requirements/torch.txt", "train"),
        ("configs/labels.csv", "train"),
        ("README.md", None),
    ],
)
def test_a_changed_file_reruns_what_depends_on_it(changeable: Pipeline, path: str, first: str | None):
    """Code, lock files and reviewed labels alike; compiled Python is not a change."""
    (changeable.folder / "training/fit/__pycache__").mkdir()
    (changeable.folder / "training/fit/__pycache__/head.cpython-311.pyc").touch()
    with (changeable.folder / path).open("a") as file:
        file.write("\n")
    assert changeable.would_run() == (STAGES[STAGES.index(first) :] if first else [])


def test_metrics_and_plots_can_be_compared(changeable: Pipeline):
    """`dvc metrics diff` shows the change of a figure, `dvc plots` writes every plot."""
    path = changeable.folder / "reports/evaluation/metrics.json"
    figures = json.loads(path.read_text())
    before = figures["accuracy"]["value"]
    figures["accuracy"]["value"] = before + 0.125
    path.write_text(json.dumps(figures))
    difference = json.loads(changeable.run("dvc", "metrics", "diff", "--json"))
    changed = difference["reports/evaluation/metrics.json"]["accuracy.value"]
    assert changed["diff"] == pytest.approx(0.125)
    changeable.run("dvc", "plots", "show", "--out", "build/plots")
    page = (changeable.folder / "build/plots/index.html").read_text()
    for title in ("Loss of the", "Accuracy of the", "Confusion on", "Reliability on", "confusion_matrix.png"):
        assert title in page


@pytest.mark.slow
def test_a_changed_parameter_really_reruns(changeable: Pipeline):
    """`dvc repro` runs what it would run, and then nothing is left to do; likewise for another split."""
    changeable.change("train.yaml", "export", "accepted_error_max", value=0.1)
    assert re.findall(r"Running stage '(\w+)'", changeable.run("dvc", "repro")) == ["export", "evaluate"]
    assert "Running stage" not in changeable.run("dvc", "repro")
    changeable.change("data.yaml", "prepare", "salt", value="other")
    assert re.findall(r"Running stage '(\w+)'", changeable.run("dvc", "repro", "prepare")) == ["prepare"]
    assert changeable.would_run() == ["train", "export", "evaluate"]


@pytest.mark.slow
def test_what_is_trained_from_the_released_model_is_an_output_of_the_training(changeable: Pipeline):
    """After `make continue` the pipeline exports and evaluates it, and does not train again."""
    folder = changeable.folder
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/continue.sh", folder / "scripts")
    write_artifact(folder / "models/release/model.pt")
    table = folder / "reports/train/validation_log_probabilities.csv"
    rows = pd.read_csv(table)
    cat = np.where(rows["target"] == 0, 0.01, 0.99)  # always wrong
    rows["cat"], rows["dog"] = np.log(cat), np.log(1 - cat)
    rows.to_csv(table, index=False)
    assert "Kept: the network from the released model" in changeable.run("bash", "scripts/continue.sh")
    assert changeable.would_run() == ["export", "evaluate"]
    assert re.findall(r"Running stage '(\w+)'", changeable.run("dvc", "repro")) == ["export", "evaluate"]
    assert "nothing changes" in changeable.run("bash", "scripts/continue.sh")
    assert changeable.would_run() == []
    changeable.change("train.yaml", "finetune", "learning_rate", value=0.02)
    refused = subprocess.run(
        ["bash", "scripts/continue.sh"],
        cwd=folder, env=changeable.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode
    assert "Train first: make train" in refused.stderr


@pytest.mark.slow
def test_push_and_pull_carry_data_and_model(changeable: Pipeline, tmp_path: Path):
    """Through a remote, into a fresh clone: the same bytes, and nothing to run."""
    folder = changeable.folder
    changeable.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    changeable.run("dvc", "push", "--quiet")
    clone = tmp_path / "clone"
    changeable.run("git", "clone", "--quiet", str(folder), str(clone))
    changeable.run(
        "dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"), cwd=clone
    )
    changeable.run("dvc", "pull", "--quiet", cwd=clone)
    for name in ("models/model.pt", "data/prepared/manifest.csv"):
        assert (clone / name).read_bytes() == (folder / name).read_bytes()
    assert len(list((clone / "data/raw").rglob("*.jpg"))) == len(list((folder / "data/raw").rglob("*.jpg")))
    assert "up to date" in changeable.run("dvc", "status", cwd=clone)
