"""Each variant is a separate training, and an interrupted study resumes at the first missing row."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import yaml
from mlflow.tracking import MlflowClient

from evaluation.figures.intervals import Figure
from tests.tiny import ROOT, train_config
from training.config import TrainConfig
from training.fit.job import Job
from training.options import parse
from training.place import Place
from training.study import variants

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.mark.slow
def test_rows_are_kept_and_the_pipeline_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Two variants on half of the photos, interrupted after the first: the next trains only the second."""
    (place.root / "configs").unlink()
    shutil.copytree(ROOT / "configs", place.root / "configs")
    place.train_config.write_text(yaml.safe_dump(asdict(train_config("--tracking.experiment", "pets"))))
    monkeypatch.setattr(variants, "SHORT", {"finetune.input_sizes": "[32]", "finetune.epochs_per_pass": "1"})
    names = ("head alone, backbone frozen", "label smoothing 0.1")
    monkeypatch.setattr(variants, "VARIANTS", {name: variants.VARIANTS[name] for name in names})
    train, trained = variants.fit, []

    def cut(job: Job, keep: str, tags: object) -> str:
        if trained:
            raise KeyboardInterrupt
        trained.append(job)
        return train(job, keep, tags)

    monkeypatch.setattr(variants, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        variants.ablate(2, 2, place)
    monkeypatch.setattr(variants, "fit", train)
    variants.ablate(2, 2, place)
    broken = {"diverging": {"finetune.learning_rate": "1e30"}}
    monkeypatch.setattr(variants, "VARIANTS", broken | variants.VARIANTS)
    variants.ablate(2, 2, place)
    assert capsys.readouterr().out.count(f"== {names[0]}, seed 1") == 1
    table = (place.ablation / "table.md").read_text()
    assert "diverging" not in table, "it has no figures, and the study continues"
    assert all(f"| {name} | 2 |" in table for name in names)
    assert table.startswith("33 training photos"), "of 65"
    (rows,) = place.ablation.glob("rows-*.json")
    stored = json.loads(rows.read_text())
    assert [(row["name"], row["seed"]) for row in stored] == [
        (name, seed) for seed in (0, 1) for name in names
    ]
    assert stored[0]["log_loss"] != stored[1]["log_loss"] != stored[3]["log_loss"]
    runs = {row["run_id"] for row in stored}
    client = MlflowClient(f"sqlite:///{place.root}/mlflow.db")
    assert {client.get_experiment(client.get_run(run).info.experiment_id).name for run in runs} == {
        "pets-ablation"
    }
    assert not place.checkpoint.exists()
    assert not [name for run in runs for name in client.get_run(run).data.metrics if "test" in name]
    assert not list(place.ablation.rglob("*test*")), "the test split is neither decoded nor predicted"


def test_the_table_has_mean_and_spread_over_the_seeds():
    """Accuracy, loss, accuracy under corruption and minutes; a single seed has no spread."""

    def row(name: str, seed: int, share: float) -> variants.Row:
        figure = Figure(share, 0.0, 1.0, 100)
        better = "head" if seed else "finetune"
        return variants.Row(name, seed, figure, figure, figure, 600 * share, better, "run")

    rows = [row("recipe", seed, share) for seed, share in enumerate((0.9, 0.8, 0.4))]
    (recipe, once) = variants.as_markdown([*rows, row("once", 0, 0.5)], 40, "as configured").splitlines()[-2:]
    percent, loss = "70.00 ± 26.46 (40.00 to 90.00)", "0.7000 ± 0.2646 (0.4000 to 0.9000)"
    assert recipe == f"| recipe | 3 | {percent} | {loss} | {percent} | 1 | 7.0 ± 2.6 (4.0 to 9.0) |"
    assert once == "| once | 1 | 50.00 | 0.5000 | 50.00 | 1 | 5.0 |"


def test_the_recipes_are_trained_as_they_are(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The full and the fast one, seed by seed, nothing of them shortened."""
    (place.root / "configs").unlink()
    shutil.copytree(ROOT / "configs", place.root / "configs")
    trained: list[TrainConfig] = []

    def train(name: str, seed: int, config: TrainConfig, *_: object) -> variants.Row:
        trained.append(config)
        figure = Figure(0.5, 0.0, 1.0, 100)
        return variants.Row(name, seed, figure, figure, figure, 60, "finetune", "run")

    monkeypatch.setattr(variants, "_train", train)
    variants.repeat(1, 2, place)
    full, short = trained[0].finetune, trained[1].finetune
    assert full == parse(TrainConfig, place.train_config, [], command="fit", about="").finetune
    assert (len(full.input_sizes), full.frozen_groups) != (len(short.input_sizes), short.frozen_groups)
    assert [(config.seed, config.finetune) for config in trained] == [
        (17, full), (17, short), (18, full), (18, short)
    ]  # fmt: skip
    table = (place.ablation / "recipes.md").read_text()
    assert f"| {place.train_config} | 2 |" in table
    variants.repeat(1, 2, place)
    assert len(trained) == 4, "nothing is missing"
    fast = place.train_config.with_name("fast.yaml")
    fast.write_text(fast.read_text().replace("frozen_groups: 3", "frozen_groups: 2"))
    variants.repeat(1, 1, place)
    assert len(trained) == 6, "another fast recipe is another study"
