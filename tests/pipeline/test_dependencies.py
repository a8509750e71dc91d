"""DVC knows everything that the result of a stage depends on: code, files and library versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.conftest import Pipeline
from tests.pipeline.stages import closure, declared, uncovered

STAGES = declared()
WITHOUT_CODE = {"fetch"}
"""Parameters and DATA decide what it fetches; a code change must not fetch the photos again."""
CACHES = ("build", "mlruns", "mlflow.db", "mlflow.db-journal", "mlflow.db-wal", "mlflow.db-shm")
"""Written by stages, without influence on their results."""


@pytest.mark.parametrize("name", sorted(STAGES.keys() - WITHOUT_CODE))
def test_a_stage_depends_on_all_that_it_imports(name: str):
    """Every module of ours that its command imports, at the top or within a function."""
    stage = STAGES[name]
    found = closure(stage.module)
    assert len(found) > 5
    assert uncovered(found, stage.reads) == []


@pytest.mark.parametrize("name", sorted(STAGES.keys() - WITHOUT_CODE))
def test_a_stage_depends_on_the_versions_of_its_libraries(name: str):
    """Through the lock files; that of torch where it computes with tensors."""
    wanted = {"requirements/train.txt"} | ({"requirements/torch.txt"} if name != "prepare" else set())
    assert wanted <= STAGES[name].reads


@pytest.mark.parametrize("missing", ["serving/contract", "evaluation/figures", "training/network", "common"])
def test_a_missing_dependency_is_found(missing: str):
    """A check of the test itself: a package that export needs is found missing when it is left out."""
    stage = STAGES["export"]
    lying = replace(stage, reads=stage.reads - {missing})
    found = uncovered(closure(stage.module), lying.reads)
    assert found
    assert all(path.startswith(missing) for path in found)


def test_an_import_within_a_function_counts(tmp_path: Path):
    """Commands import late, so that their help is fast."""
    (tmp_path / "training").mkdir()
    for name, text in {
        "stage": "def main():\n    from training import work\n    import training.more\n",
        "work": "import json\nfrom training.deep import thing\n",
        "more": "",
        "deep": "thing = 1\n",
    }.items():
        (tmp_path / f"training/{name}.py").write_text(text)
    found = closure("training.stage", tmp_path)
    assert found == {f"training/{name}.py" for name in ("stage", "work", "more", "deep")}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_opens_only_what_it_declares(pipeline: Pipeline, name: str):
    """Every file that it read or wrote in the run is declared, or a cache."""
    stage = STAGES[name]
    opened = pipeline.opened(name)
    assert uncovered(opened, {*stage.reads, *stage.writes, *CACHES}) == []
    assert opened & {path for path in opened if not uncovered([path], stage.writes)}, "its outputs are seen"


def test_a_file_that_is_read_undeclared_is_found(pipeline: Pipeline):
    """A check of the test itself: the export reads the predictions of training."""
    stage = STAGES["export"]
    found = uncovered(pipeline.opened("export"), {*(stage.reads - {"reports/train"}), *stage.writes, *CACHES})
    assert found == ["reports/train/validation_log_probabilities.csv"]
