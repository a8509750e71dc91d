"""The recipe with one part changed at a time, or recipes as they are, and the table that compares them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from common import files
from common.cores import map_on_cores
from evaluation.artefact.corruptions import CORRUPTIONS, corrupt
from evaluation.figures import metrics
from evaluation.figures.intervals import Figure, decode, mean, share_of_clusters
from serving.contract.preprocess import preprocess
from training.config import TrainConfig
from training.fit import checkpoint, predictions
from training.fit.job import Job, fingerprint
from training.fit.phases import Diverged, fit
from training.fit.predictions import Predictions
from training.network.predict import predict_all
from training.options import parse
from training.photos.manifest import Manifest, every_nth_for_training, read_manifest
from training.place import Place

_STUDY: Final = "ablation"
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
    "stem and two stages kept": {"finetune.frozen_groups": "3"},
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
    """One training of a variant."""

    name: str
    seed: int
    accuracy: Figure
    log_loss: Figure
    """After calibration."""
    corrupted: Figure
    """Accuracy under every corruption at strength 3; by photo, not by picture."""
    seconds: float
    better: str
    """Phase with the lower calibrated loss, which a training would keep: `head` or `finetune`."""
    run_id: str


def ablate(share: int, seeds: int, place: Place) -> None:
    """Train every variant, shortened, with `seeds` seeds each; write `table.md`.

    Args:
        share: The trainings see one of every `share` training photos.
        seeds: Trainings of each variant.
        place: Of the pipeline; the study has a folder of its own in it.

    Raises:
        PipelineError: there is no manifest, there are too few photos, or a training fails.
    """
    manifest = every_nth_for_training(read_manifest(place), share)
    variants = {name: shortened(changes, place, _STUDY) for name, changes in VARIANTS.items()}
    tied = fingerprint(shortened({}, place, _STUDY), manifest)  # to these photos and to this recipe
    about = f"{SHORT['finetune.input_sizes']} pixels"
    _study(variants, tied, about, seeds, manifest, place, "table.md")


def repeat(share: int, seeds: int, place: Place) -> None:
    """Train the full and the fast recipe as they are, with `seeds` seeds each; write `recipes.md`.

    Arguments and errors are those of `ablate`.
    """
    manifest = every_nth_for_training(read_manifest(place), share)
    paths = (place.train_config, place.train_config.with_name("fast.yaml"))
    recipes = {path.as_posix(): configured(["--config", path.as_posix()], place, _STUDY) for path in paths}
    tied = "-".join(fingerprint(config, manifest) for config in recipes.values())
    _study(recipes, tied, "as configured", seeds, manifest, place, "recipes.md")


def _study(
    variants: Mapping[str, TrainConfig],
    tied: str,
    about: str,
    seeds: int,
    manifest: Manifest,
    place: Place,
    table: str,
) -> None:
    """Train what `rows-<tied>.json` lacks; write the table."""
    results = place.ablation / f"rows-{tied}.json"
    rows: list[Row] = decode(results.read_bytes(), list[Row]) if results.exists() else []
    # All variants with one seed, then with the next: what is there after an interruption is a whole table.
    for seed in range(seeds):
        for name, config in variants.items():
            if not any((row.name, row.seed) == (name, seed) for row in rows):
                print(f"== {name}, seed {seed + 1} of {seeds}", flush=True)
                try:
                    rows.append(_train(name, seed, replace(config, seed=config.seed + seed), manifest, place))
                except Diverged as error:  # the column "seeds" shows that one is missing
                    print(error)
                files.write_json(results, rows)
    chosen = [row for row in rows if row.seed < seeds and row.name in variants]
    text = as_markdown(chosen, len(manifest.splits["train"].paths), about)
    (place.ablation / table).write_text(text, encoding="utf-8")
    print(text)


def shortened(changes: dict[str, str], place: Place, study: str) -> TrainConfig:
    """The configured recipe, shortened and changed, in the study's own MLflow experiment."""
    options = [text for key, value in (SHORT | changes).items() for text in (f"--{key}", value)]
    return configured(options, place, study)


def configured(options: list[str], place: Place, study: str) -> TrainConfig:
    """The configured recipe with these options, in the study's own MLflow experiment."""
    config = parse(TrainConfig, place.train_config, options, command=study, about="")
    experiment = f"{config.tracking.experiment}-{study}"
    return replace(config, tracking=replace(config.tracking, experiment=experiment))


def _train(name: str, seed: int, config: TrainConfig, manifest: Manifest, place: Place) -> Row:
    own = Place(place.ablation)  # leaves the pipeline's checkpoint and report alone
    began = time.monotonic()
    found, better = train(config, manifest, own)
    seconds = time.monotonic() - began
    temperature = metrics.fit_temperature(found.log_probabilities, found.targets)
    probabilities = softmax(found.log_probabilities / temperature, axis=1)
    network = checkpoint.read(own.checkpoint).network()
    images, truth = _corrupted(manifest, config.model.input_size, own)
    right = predict_all(network, images, title="corrupted").argmax(1) == truth
    return Row(
        name,
        seed,
        metrics.accuracy(probabilities, found.targets),
        mean(metrics.losses(probabilities, found.targets)),
        share_of_clusters(right.reshape(len(CORRUPTIONS), -1).T),
        seconds,
        better,
        checkpoint.read_run(own.run).mlflow_run_id,
    )


def train(
    config: TrainConfig, manifest: Manifest, own: Place, tags: Mapping[str, str] | None = None
) -> tuple[Predictions, str]:
    """Train in a pipeline folder of its own; return validation's predictions and the better phase.

    The predictions are the fine-tuned network's if there is fine-tuning, even where the head alone is better.

    Args:
        config: The recipe.
        manifest: The photos.
        own: The folder.
        tags: Of the MLflow run.

    Raises:
        Diverged: the fine-tuned network has no finite loss.
    """
    keep = "finetune" if config.finetune.input_sizes else "head"
    better = fit(Job.plan(config, manifest, own), keep, tags)
    return predictions.read(own.train_report, "validation"), better


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


def as_markdown(rows: list[Row], photos: int, passes: str) -> str:
    """A line for each variant: mean and spread over its seeds."""
    about = (
        f"{photos} training photos, {passes}; validation "
        f"n={rows[0].accuracy.n}, corrupted n={rows[0].corrupted.n}. Each cell is the mean over the "
        "seeds ± their standard deviation (minimum to maximum); loss in nats, after calibration. "
        '"Kept" counts the seeds whose fine-tuned network has a lower loss than the head alone.'
    )
    header = "| training | seeds | accuracy, % | log loss | accuracy under corruption, % | kept | minutes |"
    lines = [about, "", header, "| --- " * 7 + "|"]
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        cells = (
            _spread([100 * row.accuracy.value for row in own], 2),
            _spread([row.log_loss.value for row in own], 4),
            _spread([100 * row.corrupted.value for row in own], 2),
            str(sum(row.better == "finetune" for row in own)),
            _spread([row.seconds / 60 for row in own], 1),
        )
        lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation (minimum to maximum); one value has no spread."""
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return text
    deviation = statistics.stdev(values)
    return f"{text} ± {deviation:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
