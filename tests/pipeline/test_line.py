"""The line of dvc.yaml, run by DVC in a git repository of its own, on drawn pictures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from serving.contract import artifact
from tests.tiny import ROOT, TRAIN

# The first test makes the line for all: six commands that import torch, which a busy machine draws out.
pytestmark = pytest.mark.timeout(400)
STAGES = ["fetch", "prepare", "teach", "train", "export", "evaluate"]


@dataclass(frozen=True)
class Line:
    """A repository in which the line has run once, and what that printed."""

    folder: Path
    environment: dict[str, str]
    output: str

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """A command's output; it must succeed."""
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stages_run(self, *targets: str) -> list[str]:
        """The stages that `dvc repro` finds work for."""
        return re.findall(r"Running stage '(\w+)'", self.run("dvc", "repro", *targets))

    def change(self, name: str, *keys: str, value: object) -> None:
        """Set a value in a configuration."""
        path = self.folder / "configs" / name
        content = yaml.safe_load(path.read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, environment: Callable[..., dict[str, str]]) -> Line:
    """The whole line once, committed."""
    folder = tmp_path_factory.mktemp("line")
    for name in ("common", "training", "serving", "evaluation", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    identity = {
        f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    fresh = Line(folder, environment(**identity), "")
    config = fresh.run(sys.executable, "-m", "training", "fit", *TRAIN, "--print_config")
    (folder / "configs/train.yaml").write_text(config)
    fresh.change("data.yaml", "fetch", "source", value="sample")
    fresh.change("data.yaml", "fetch", "sample_per_class", value=40)
    fresh.run("git", "init", "--quiet")
    fresh.run("dvc", "init", "--quiet")
    output = fresh.run("dvc", "repro")
    fresh.run("git", "add", "-A")
    fresh.run("git", "commit", "--quiet", "-m", "The line")
    return Line(folder, fresh.environment, output)


@pytest.fixture
def restored(line: Line):
    """The line, with what a test changes put back as committed."""
    yield line
    line.run("git", "checkout", "--quiet", ".")
    line.run("dvc", "checkout", "--quiet", "--force")


def test_the_line_runs_every_stage_and_a_second_time_none(line: Line):
    """In order; then nothing has changed, so nothing runs."""
    assert re.findall(r"Running stage '(\w+)'", line.output) == STAGES
    assert line.stages_run() == []


def test_what_the_stages_made_belongs_together(line: Line):
    """Artefact, figures, run and manifest name each other."""
    loaded = artifact.read(line.folder / "models/model.pt")
    figures = json.loads((line.folder / "reports/evaluation/metrics.json").read_text())
    run = json.loads((line.folder / "models/run.json").read_text())
    assert figures["model"]["sha256"] == loaded.sha256
    assert figures["mlflow_run_id"] == run["mlflow_run_id"] == loaded.card.lineage.mlflow_run_id
    assert loaded.card.lineage.data_hash == run["data_sha256"]
    # the serving handler and the trainer's own predictions agree about the test split
    assert figures["accuracy"]["value"] == pytest.approx(loaded.card.metrics["accuracy"].value, abs=1e-9)
    assert figures["log_loss"]["value"] == pytest.approx(loaded.card.metrics["log_loss"].value, abs=1e-3)


def test_no_photo_and_no_path_of_this_machine_is_committed(line: Line):
    """What git tracks is text without a machine in it; photos and models are DVC's."""
    tracked = line.run("git", "ls-files", "data", "models", "reports", "dvc.lock").split()
    suffixes = {Path(name).suffix for name in tracked}
    assert not suffixes & {".jpg", ".png", ".pt", ".ckpt", ".csv"}
    for name in tracked:
        assert str(line.folder) not in (line.folder / name).read_text()


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (("train.yaml", "export", "accepted_error_max", 0.1), ["export", "evaluate"]),
        (("train.yaml", "tracking", "alias", "other"), []),
    ],
)
def test_a_changed_parameter_reruns_what_depends_on_it(
    restored: Line, change: tuple[str, ...], stages: list[str]
):
    """And nothing else."""
    name, *keys, value = change
    restored.change(name, *keys, value=value)
    assert restored.stages_run() == stages


def test_another_split_asks_for_another_training(restored: Line):
    """Once prepared, DVC finds the training out of date and the photos not."""
    restored.change("data.yaml", "prepare", "salt", value="other")
    assert restored.stages_run("prepare") == ["prepare"]
    out_of_date = json.loads(restored.run("dvc", "status", "--json"))
    assert "train" in out_of_date
    assert not out_of_date.keys() & {"fetch", "prepare"}


def test_metrics_and_plots_can_be_compared(restored: Line):
    """`dvc metrics diff` shows the change of a figure, `dvc plots` writes every plot."""
    path = restored.folder / "reports/evaluation/metrics.json"
    figures = json.loads(path.read_text())
    before = figures["accuracy"]["value"]
    figures["accuracy"]["value"] = before + 0.125
    path.write_text(json.dumps(figures))
    difference = json.loads(restored.run("dvc", "metrics", "diff", "--json"))
    changed = difference["reports/evaluation/metrics.json"]["accuracy.value"]
    assert changed["diff"] == pytest.approx(0.125)
    restored.run("dvc", "plots", "show", "--out", "build/plots")
    page = (restored.folder / "build/plots/index.html").read_text()
    for title in ("Loss over", "Accuracy over", "Confusion on", "Reliability on", "confusion_matrix.png"):
        assert title in page


def test_push_and_pull_carry_data_and_model(line: Line, tmp_path: Path):
    """Through a remote, into a fresh clone: the same bytes, and nothing to run."""
    line.run("dvc", "remote", "add", "--force", "--local", "--default", "store", str(tmp_path / "store"))
    line.run("dvc", "push", "--quiet")
    clone = tmp_path / "clone"
    line.run("git", "clone", "--quiet", str(line.folder), str(clone))
    line.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"), cwd=clone)
    line.run("dvc", "pull", "--quiet", cwd=clone)
    for name in ("models/model.pt", "data/prepared/manifest.csv"):
        assert (clone / name).read_bytes() == (line.folder / name).read_bytes()
    assert len(list((clone / "data/raw").rglob("*.jpg"))) == len(
        list((line.folder / "data/raw").rglob("*.jpg"))
    )
    assert "up to date" in line.run("dvc", "status", cwd=clone)
