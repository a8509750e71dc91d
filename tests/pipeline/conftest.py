"""The pipeline of dvc.yaml, run once by DVC in a separate git repository, on drawn pictures."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from tests.once import Once
from tests.tiny import ROOT, TRAIN

_OBSERVER = """
import os, sys

stage, here = os.environ.get("DVC_STAGE"), os.getcwd() + os.sep
if stage:
    log = os.open(os.path.join(os.path.dirname(__file__), stage), os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def opened(event, arguments):
        if event == "open" and arguments[1] and isinstance(arguments[0], (str, bytes)):  # not a folder
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(here):
                os.write(log, os.fsencode(path.removeprefix(here) + chr(10)))

    sys.addaudithook(opened)
"""
"""Imported by every Python process of the pipeline: logs the files in the folder that a stage opens."""


@dataclass(frozen=True)
class Pipeline:
    """A repository in which the pipeline has run once, with its output."""

    folder: Path
    environment: dict[str, str]

    @property
    def output(self) -> str:
        """What the first run printed."""
        return (self.folder / "build/output.txt").read_text()

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command, which must succeed; return its output."""
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def would_run(self) -> list[str]:
        """The stages that a rerun would run, because they or earlier stages have changed."""
        with contextlib.chdir(self.folder), Repo() as repo:
            return [stage.name for stage in repo.reproduce(dry=True, force_downstream=True)]

    def opened(self, stage: str) -> set[str]:
        """Files, except code, that a stage opened in the first run, under their final names."""
        log = self.folder / "build/observer" / stage
        names = {re.sub(r"\.(partial|old)(?=/|$)", "", line) for line in log.read_text().splitlines()}
        return {name for name in names if not name.endswith((".py", ".pyc")) and "__pycache__" not in name}

    def change(self, name: str, *keys: str, value: object) -> None:
        """Set a value in a configuration."""
        path = self.folder / "configs" / name
        content = yaml.safe_load(path.read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="session")
def pipeline(once: Once, mlflow_database: Path, environment: Callable[..., dict[str, str]]) -> Pipeline:
    """The pipeline, run once and committed; read-only."""
    identity = {
        f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }

    def make(folder: Path) -> None:
        for name in ("common", "training", "serving", "evaluation", "configs", "requirements"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder)
        shutil.copy(mlflow_database, folder / "mlflow.db")
        observer = folder / "build/observer"
        observer.mkdir(parents=True)
        (observer / "sitecustomize.py").write_text(_OBSERVER)
        fresh = Pipeline(folder, environment(PYTHONPATH=str(observer), **identity))
        config = fresh.run(sys.executable, "-m", "training", "fit", *TRAIN, "--print_config")
        (folder / "configs/train.yaml").write_text(config)
        fresh.change("data.yaml", "fetch", "source", value="sample")
        fresh.change("data.yaml", "fetch", "sample_per_class", value=40)
        fresh.run("git", "init", "--quiet")
        fresh.run("dvc", "init", "--quiet")
        (folder / "build/output.txt").write_text(fresh.run("dvc", "repro"))
        fresh.run("git", "add", "-A")
        fresh.run("git", "commit", "--quiet", "-m", "The pipeline")

    return Pipeline(once("pipeline", make), environment(**identity))


@pytest.fixture
def changeable(pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """A copy of the pipeline's repository, for changes."""
    shutil.copytree(pipeline.folder, tmp_path / "copy", symlinks=True)
    return Pipeline(tmp_path / "copy", pipeline.environment)
