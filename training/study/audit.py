"""Manifest in, probable wrong labels out: a table and a page of thumbnails for a person to review.

Each photo is judged by a linear head on frozen ImageNet features that was trained on other photos
(cross-validation by duplicate group), so no head has seen the label it judges (Northcutt et al. 2021).
What a person then decides goes into `configs/labels.csv` (see `common.labels`).
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common import files
from common.cores import map_on_cores
from common.errors import PipelineError
from common.labels import read_reviewed
from serving.contract.preprocess import preprocess
from serving.runtime.torchscript import fuse, one_thread
from training import place
from training.config import TrainConfig
from training.network.build import Features, build
from training.network.predict import trace
from training.tracking import Tracker

_FOLDS: Final = 5
_INVERSE_PENALTY: Final = 0.01  # of standardised features: 1,280 of them, thousands of photos
_SHOWN: Final = 300
_THUMBNAIL: Final = 160


def audit(config: TrainConfig) -> pd.DataFrame:
    """Rank the photos whose label other photos contradict; write `build/audit`, keep it with MLflow's run.

    Returns:
        One row a suspect, worst first: path, sha256, split, label, suggested, probability of the label,
        loss in nats, and the label a review gave it, if one has.

    Raises:
        PipelineError: no manifest, fewer than five groups of a class, or a backbone without weights.
    """
    if not place.MANIFEST.exists():
        raise PipelineError(f"There is no manifest at {place.MANIFEST}. Prepare the photos first: make data.")
    if not config.model.pretrained:
        raise PipelineError("The audit needs a pretrained backbone: set model.pretrained=true.")
    table = pd.read_csv(place.MANIFEST)
    if table.groupby("label")["group"].nunique().min() < _FOLDS:
        raise PipelineError(f"The audit needs {_FOLDS} photos of each class, none a copy of another.")
    labels = sorted(table["label"].unique())
    targets = table["label"].map(labels.index).to_numpy()
    features = _features(config, [place.RAW / name for name in table["path"]], len(labels))
    probabilities = _out_of_fold(features, targets, table["group"].to_numpy(), config.seed)
    suspects = _rank(table, labels, probabilities, targets)
    with files.atomic_folder(place.AUDIT) as folder:
        suspects.to_csv(folder / "suspects.csv", index=False)
        (folder / "suspects.html").write_text(_page(suspects), encoding="utf-8")
    _track(config)
    print(
        f"{len(suspects)} of {len(table)} photos are contradicted by the others; {place.AUDIT}/suspects.html "
        "shows the worst. Write what you decide into configs/labels.csv."
    )
    return suspects


def _features(config: TrainConfig, photos: list[Path], classes: int) -> npt.NDArray[np.float32]:
    """`f32[N,D]`: the frozen backbone's features of each photo."""
    network = build(config.model, classes).eval()
    size = config.model.input_size
    frozen = fuse(trace(Features(network).eval(), size))

    def compute(photo: Path) -> torch.Tensor:
        with torch.inference_mode():
            pixels = torch.from_numpy(preprocess(photo.read_bytes(), size).pixels)
            row: torch.Tensor = frozen(pixels[None])  # [1,D]
        return row

    return torch.cat(map_on_cores(compute, photos, "audit features", initializer=one_thread)).numpy()


def _out_of_fold(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    groups: npt.NDArray[np.object_],
    seed: int,
) -> npt.NDArray[np.float64]:
    """`f64[N,K]`: probabilities from a head that saw neither the photo nor a copy of it."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    print(f"judging {len(targets)} photos in {_FOLDS} folds…", flush=True)
    result: npt.NDArray[np.float64] = cross_val_predict(
        head, features, targets, cv=folds, groups=groups, method="predict_proba"
    )
    return result


def _rank(
    table: pd.DataFrame,
    labels: list[str],
    probabilities: npt.NDArray[np.float64],
    targets: npt.NDArray[np.int64],
) -> pd.DataFrame:
    own = probabilities[np.arange(len(targets)), targets]
    ranked = table[["path", "sha256", "split", "label"]].assign(
        suggested=[labels[k] for k in probabilities.argmax(1)],
        probability=own.round(6),
        loss=-np.log(np.clip(own, 1e-12, 1.0)).round(4),
        reviewed=table["sha256"].map(read_reviewed()["label"]),
    )
    return ranked[ranked["suggested"] != ranked["label"]].sort_values("loss", ascending=False)


def _page(suspects: pd.DataFrame) -> str:
    """A page that needs nothing but itself."""
    figures = []
    for row in suspects.head(_SHOWN).to_dict("records"):
        reviewed = f" · reviewed: {row['reviewed'] or 'left out'}" if isinstance(row["reviewed"], str) else ""
        caption = f"{row['path']} ({row['split']}): labelled {row['label']}, loss {row['loss']:.1f}{reviewed}"
        figures.append(
            f'<figure><img src="{_thumbnail(place.RAW / row["path"])}" alt="">'
            f"<figcaption>{html.escape(caption)}<br><code>{row['sha256'][:16]}</code></figcaption></figure>"
        )
    style = "body{font:14px sans-serif;display:flex;flex-wrap:wrap;gap:1em}figure{width:180px;margin:0}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Probable wrong labels</title>'
        f"<style>{style}</style>{''.join(figures)}</html>\n"
    )


def _thumbnail(photo: Path) -> str:
    with Image.open(photo) as image:
        small = ImageOps.contain(ImageOps.exif_transpose(image).convert("RGB"), (_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _track(config: TrainConfig) -> None:
    """With the run that made the present checkpoint, or with one of its own."""
    run = json.loads(place.RUN.read_text())["mlflow_run_id"] if place.RUN.exists() else None
    try:
        tracker = Tracker(config.tracking, run)
    except PipelineError:
        tracker = Tracker(config.tracking)  # the run is another machine's
    for name in ("suspects.csv", "suspects.html"):
        tracker.log_file(place.AUDIT / name, "audit")
    tracker.finish()
