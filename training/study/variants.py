"""The recipe with one part changed at a time: short trainings, and the table that compares them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from common import files
from common.cores import map_on_cores
from evaluation.artefact.corruptions import CORRUPTIONS, corrupt
from evaluation.figures import metrics
from evaluation.figures.intervals import Figure, decode, wilson
from serving.contract.preprocess import preprocess
from training.config import TrainConfig
from training.fit import checkpoint, predictions
from training.fit.job import Job
from training.fit.phases import fit
from training.network.predict import predict_all
from training.options import parse
from training.photos.manifest import Manifest, every_nth_for_training, read_manifest
from training.place import Place

_CORRUPTED: Final = 150
_STRENGTH: Final = 3

SHORT: Final = {
    "finetune.input_sizes": "[128, 160, 192]",
    "finetune.epochs_per_pass": "1",
    "trainer.devices": "1",
    "trainer.nodes": "1",
}
"""Shortens the recipe of `configs/train.yaml`."""

VARIANTS: Final[dict[str, dict[str, str]]] = {
    "the recipe": {},
    "head alone, backbone frozen": {"finetune.input_sizes": "[]"},
    "head not trained first": {"head.enabled": "false"},
    "no moving average": {"finetune.ema_share": "0"},
    "twice the learning rate": {"finetune.learning_rate": "2e-4"},
    "192 pixels from the start": {"finetune.input_sizes": "[192, 192, 192]"},
    "no augmentation of quality": dict.fromkeys(
        [f"augment.{change}" for change in ("light", "grey", "blur", "thumbnail", "noise", "jpeg")], "0"
    ),
    "no crop, flip and colour": {
        "augment.crop_scale_min": "0.999",
        "augment.crop_ratio_max": "1.001",
        "augment.flip": "0",
        "augment.brightness": "0",
    },
    "batch norm statistics trained": {"finetune.freeze_norm": "false"},
    "label smoothing 0.1": {"finetune.label_smoothing": "0.1"},
}


class Row(msgspec.Struct, frozen=True):
    """One training, a row of the table."""

    name: str
    accuracy: Figure
    log_loss: Figure
    ece: Figure
    corrupted: Figure
    """Accuracy under every corruption at strength 3."""
    seconds: float
    run_id: str


def ablate(share: int, place: Place) -> None:
    """Train every variant on one of every `share` training photos; write `table.md` to the ablation folder.

    Raises:
        PipelineError: there is no manifest, there are too few photos, or a training fails.
    """
    manifest = every_nth_for_training(read_manifest(place), share)
    results = place.ablation / f"rows-{manifest.sha256[:12]}.json"  # tied to these photos
    rows: dict[str, Row] = {}
    if results.exists():
        rows = decode(results.read_bytes(), dict[str, Row])
    for name, changes in VARIANTS.items():
        if name not in rows:
            print(f"== {name} ({len(rows) + 1} of {len(VARIANTS)})", flush=True)
            rows[name] = _train(name, _configured(changes, place), manifest, place)
            files.write_json(results, rows)
    text = as_markdown(list(rows.values()), len(manifest.splits["train"].paths))
    (place.ablation / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _configured(changes: dict[str, str], place: Place) -> TrainConfig:
    """The configured recipe, shortened and changed, in an MLflow experiment of its own."""
    options = [text for key, value in (SHORT | changes).items() for text in (f"--{key}", value)]
    config = parse(TrainConfig, place.train_config, options, command="ablation", about="")
    experiment = f"{config.tracking.experiment}-ablation"
    return replace(config, tracking=replace(config.tracking, experiment=experiment))


def _train(name: str, config: TrainConfig, manifest: Manifest, place: Place) -> Row:
    own = Place(place.ablation)  # leaves the pipeline's checkpoint and report alone
    began = time.monotonic()
    fit(Job.plan(config, manifest, own))
    seconds = time.monotonic() - began
    found = predictions.read(own.train_report, "validation")
    figures = metrics.evaluate(np.exp(found.log_probabilities), found.targets, manifest.labels)
    network = checkpoint.read(own.checkpoint).network()
    images, truth = _corrupted(manifest, config.model.input_size, own)
    right = predict_all(network, images, title="corrupted").argmax(1) == truth
    return Row(
        name,
        figures.accuracy,
        figures.log_loss,
        figures.ece,
        wilson(int(right.sum()), len(right)),
        seconds,
        checkpoint.read_run(own.run).mlflow_run_id,
    )


def _corrupted(
    manifest: Manifest, size: int, own: Place
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Some validation photos under each corruption, `u8[N,3,S,S]`, and their classes; cached."""
    split = manifest.splits["validation"]
    chosen = np.linspace(0, len(split.paths) - 1, min(_CORRUPTED, len(split.paths))).astype(int)
    truth = np.tile(np.array(split.targets)[chosen], len(CORRUPTIONS))
    cache = own.root / f"corrupted-{manifest.sha256[:12]}-{size}.npy"
    if not cache.exists():
        work = [(name, split.paths[index]) for name in CORRUPTIONS for index in chosen]

        def one(item: tuple[str, Path]) -> npt.NDArray[np.uint8]:
            return corrupt(preprocess(item[1].read_bytes(), size).pixels, item[0], _STRENGTH, seed=0)

        with files.atomic_file(cache) as partial, partial.open("wb") as file:
            np.save(file, np.stack(map_on_cores(one, work, "corrupt")))
    return np.load(cache, mmap_mode="r"), truth


def as_markdown(rows: list[Row], photos: int) -> str:
    """The rows as a table."""
    about = (
        f"{photos} training photos, {SHORT['finetune.input_sizes']} pixels; "
        f"validation n={rows[0].accuracy.n}, corrupted n={rows[0].corrupted.n}."
    )
    header = "| training | accuracy | log loss | ECE | accuracy under corruption | minutes |"
    lines = [about, "", header, "| --- " * 6 + "|"]
    for row in rows:
        accuracy, ece, corrupted = (
            f"{100 * figure.value:.2f} % [{100 * figure.low:.2f}, {100 * figure.high:.2f}]"
            for figure in (row.accuracy, row.ece, row.corrupted)
        )
        loss = f"{row.log_loss.value:.4f} [{row.log_loss.low:.4f}, {row.log_loss.high:.4f}]"
        minutes = f"{row.seconds / 60:.1f}"
        lines.append(f"| {row.name} | {accuracy} | {loss} | {ece} | {corrupted} | {minutes} |")
    return "\n".join(lines) + "\n"
