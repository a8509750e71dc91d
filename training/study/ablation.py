"""`python -m training ablation`: what each part of the recipe is worth, on a part of the photos.

Each row is a training of its own, a run in MLflow, judged on the whole validation split and on photos of it
under corruption; test is not looked at. It goes on where it was interrupted, row by row.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from common import files
from common.cores import map_on_cores
from common.errors import PipelineError
from evaluation.artefact.corruptions import CORRUPTIONS, corrupt
from evaluation.figures import intervals, metrics
from serving.contract.preprocess import preprocess
from training import place, workplace
from training.config import TrainConfig
from training.network.predict import forward_all
from training.photos.data import Manifest, Split, read_manifest

_WORK: Final = Path("build/ablation")
_RESULTS: Final = _WORK / "rows.json"
_CORRUPTED: Final = 150
_STRENGTH: Final = 3

SHORT: Final = {
    "finetune.input_sizes": "[128, 160, 192]",
    "finetune.epochs_per_pass": "1",
    "finetune.ema_decay": "0.985",
    "teacher.share": "0",
    "tracking.experiment": "cats-dogs-ablation",
}
"""The recipe of `configs/train.yaml` for fewer steps, without a teacher; the average spans the same share."""

VARIANTS: Final[dict[str, dict[str, str]]] = {
    "the recipe": {},
    "head alone, backbone frozen": {"finetune.input_sizes": "[]"},
    "head not trained first": {"head.epochs": "0"},
    "no moving average": {"finetune.ema_decay": "0"},
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


@dataclass(frozen=True, slots=True)
class Row:
    """One training."""

    name: str
    accuracy: dict[str, float | None]
    log_loss: dict[str, float | None]
    ece: dict[str, float | None]
    corrupted: dict[str, float | None]
    """Accuracy under every corruption at strength 3."""
    seconds: float
    run_id: str


def ablate(share: int, config: TrainConfig) -> None:
    """Train every variant on one of `share` training photos; write `build/ablation/table.md`.

    Raises:
        PipelineError: no manifest, or a training fails.
    """
    manifest = _workplace(share)
    rows = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else {}
    for name, changes in VARIANTS.items():
        if name not in rows:
            print(f"== {name} ({len(rows) + 1} of {len(VARIANTS)})", flush=True)
            rows[name] = asdict(_train(name, changes, manifest, config))
            files.write_json(_RESULTS, rows)
    text = as_markdown(list(rows.values()), len(manifest.splits["train"].paths))
    (_WORK / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _workplace(share: int) -> Manifest:
    """A folder like the project's, whose manifest names some of the training photos."""
    whole = read_manifest()
    table = pd.read_csv(place.MANIFEST)
    train = table[table["split"] == "train"].sort_values("sha256")
    some = pd.concat([train.iloc[::share], table[table["split"] != "train"]])
    prepared = _WORK / place.PREPARED
    text = some.sort_index().to_csv(index=False)
    if (prepared / place.MANIFEST.name).exists():
        if (prepared / place.MANIFEST.name).read_text(encoding="utf-8") == text:
            return read_manifest(_WORK / place.MANIFEST, _WORK / place.RAW)
        shutil.rmtree(_WORK)
    prepared.mkdir(parents=True)
    workplace.link(_WORK, place.RAW, Path("configs"))
    (prepared / place.MANIFEST.name).write_text(text, encoding="utf-8")
    part = read_manifest(_WORK / place.MANIFEST, _WORK / place.RAW)
    if part.labels != whole.labels:
        raise PipelineError(f"One of {share} photos leaves a class without any: take a smaller --share.")
    return part


def _train(name: str, changes: dict[str, str], manifest: Manifest, config: TrainConfig) -> Row:
    began = time.monotonic()
    options = [text for key, value in (SHORT | changes).items() for text in (f"--{key}", value)]
    network = workplace.fit(_WORK, options, config.tracking)
    seconds = time.monotonic() - began
    table = pd.read_csv(_WORK / place.TRAIN_REPORT / "validation_log_probabilities.csv")
    targets = table["target"].to_numpy()
    probabilities = np.exp(table[manifest.labels].to_numpy())
    figures = metrics.evaluate(probabilities, targets, manifest.labels)
    images, truth = _corrupted(manifest, config.model.input_size)
    right = forward_all(network, images, title="corrupted").argmax(1) == truth
    return Row(
        name,
        msgspec.structs.asdict(figures.accuracy),
        msgspec.structs.asdict(figures.log_loss),
        msgspec.structs.asdict(figures.ece),
        msgspec.structs.asdict(intervals.wilson(int(right.sum()), len(right))),
        seconds,
        json.loads((_WORK / place.RUN).read_text())["mlflow_run_id"],
    )


def _corrupted(manifest: Manifest, size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Some validation photos under each corruption, `u8[N,3,S,S]`, and their classes; made once."""
    split = manifest.splits["validation"]
    chosen = np.linspace(0, len(split.paths) - 1, min(_CORRUPTED, len(split.paths))).astype(int)
    cache = _WORK / "corrupted.npy"
    truth = np.tile(np.array(split.targets)[chosen], len(CORRUPTIONS))
    if not cache.exists():
        part = Split([split.paths[i] for i in chosen], [split.targets[i] for i in chosen])
        work = [(name, path) for name in CORRUPTIONS for path in part.paths]

        def one(item: tuple[str, Path]) -> npt.NDArray[np.uint8]:
            return corrupt(preprocess(item[1].read_bytes(), size).pixels, item[0], _STRENGTH, seed=0)

        with files.atomic_file(cache) as partial, partial.open("wb") as file:
            np.save(file, np.stack(map_on_cores(one, work, "corrupt")))
    return np.load(cache, mmap_mode="r"), truth


def as_markdown(rows: list[dict[str, Any]], photos: int) -> str:
    """The rows as a table."""
    about = (
        f"{photos} training photos, {SHORT['finetune.input_sizes']} pixels; "
        f"validation n={rows[0]['accuracy']['n']}, corrupted n={rows[0]['corrupted']['n']}."
    )
    lines = [
        about,
        "",
        "| training | accuracy | log loss | ECE | accuracy under corruption | minutes |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        cells = [
            f"{100 * row[key]['value']:.2f} % [{100 * row[key]['low']:.2f}, {100 * row[key]['high']:.2f}]"
            for key in ("accuracy", "ece", "corrupted")
        ]
        loss = row["log_loss"]
        lines.append(
            f"| {row['name']} | {cells[0]} | {loss['value']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}] "
            f"| {cells[1]} | {cells[2]} | {row['seconds'] / 60:.1f} |"
        )
    return "\n".join(lines) + "\n"
