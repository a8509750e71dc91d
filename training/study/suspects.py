"""Manifest in, probable wrong labels out: a table and a page of thumbnails for a person to review.

A linear head on frozen ImageNet features, trained on other photos (cross-validation by near-duplicate group),
predicts each photo, so no head has seen the label that it checks (Northcutt et al. 2021).
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Final

import jinja2
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
from common.manifest import read_manifest
from common.production import PRODUCTION
from serving.contract.preprocess import preprocess
from serving.runtime.torchscript import fusing, one_thread
from training.config import TrainConfig
from training.fit import checkpoint
from training.network.build import Features, build
from training.network.predict import trace
from training.place import Place
from training.study.decisions import SHOWN
from training.tracking import Tracker

_FOLDS: Final = 5
_INVERSE_PENALTY: Final = 0.01  # of standardised features: 1,280 of them, thousands of photos
_THUMBNAIL: Final = 160
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("training.study"), autoescape=True, undefined=jinja2.StrictUndefined
)


def audit(config: TrainConfig, place: Place) -> pd.DataFrame:
    """Rank the photos whose label others contradict; write a table and a page, and log both to MLflow.

    The production test set takes no part.

    Returns:
        One row per suspect, worst first: path, sha256, split, label, suggested, probability of each of the
        two, loss in nats, and the reviewed label, if any.

    Raises:
        ManifestError: there is no manifest.
        PipelineError: a class has fewer than five groups, or the backbone has no weights.
    """
    table = read_manifest(place.manifest)
    table = table[table["split"] != PRODUCTION].reset_index(drop=True)
    if config.model.weights == "none":
        raise PipelineError("The audit needs a pretrained backbone: set model.weights=pretrained.")
    if table.groupby("label")["group"].nunique().min() < _FOLDS:
        raise PipelineError(
            f"The audit needs {_FOLDS} photos of each class that are not near-duplicates. "
            "Add photos: make data."
        )
    labels = sorted(table["label"].unique())
    targets = table["label"].map(labels.index).to_numpy()
    features = _features(config, [place.raw / name for name in table["path"]], len(labels))
    probabilities = _out_of_fold(features, targets, table["group"].to_numpy(), config.seed)
    table["reviewed"] = table["sha256"].map(read_reviewed(place.reviewed)["label"])
    suspects = _rank(table, labels, probabilities, targets)
    with files.atomic_folder(place.audit) as folder:
        suspects.to_csv(folder / "suspects.csv", index=False)
        (folder / "suspects.html").write_text(_page(suspects, place.raw), encoding="utf-8")
    _track(config, place)
    print(
        f"{len(suspects)} of {len(table)} labels are contradicted by the other photos; "
        f"{place.audit}/suspects.html shows the worst. Review them (make review-suspects), or write your "
        "decisions into configs/labels.csv."
    )
    return suspects


def _features(config: TrainConfig, photos: list[Path], classes: int) -> npt.NDArray[np.float32]:
    """`f32[N,D]`: the frozen backbone's features of each photo."""
    network = build(config.model, classes).eval()
    size = config.model.input_size
    with fusing(trace(Features(network).eval(), size)) as frozen:

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
    """`f64[N,K]`: probabilities from a head that saw neither the photo nor its near-duplicates."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    print(f"cross-validating {len(targets)} photos in {_FOLDS} folds…", flush=True)
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
        suggested_probability=probabilities.max(1).round(6),
        loss=-np.log(np.clip(own, 1e-12, 1.0)).round(4),
        reviewed=table["reviewed"],
    )
    return ranked[ranked["suggested"] != ranked["label"]].sort_values("loss", ascending=False)


def _page(suspects: pd.DataFrame, raw: Path) -> str:
    """A self-contained page of the worst suspects."""
    shown = suspects.head(SHOWN).to_dict("records")
    photos = [row | {"thumbnail": _thumbnail(raw / row["path"])} for row in shown]
    return _TEMPLATES.get_template("suspects.html").render(suspects=photos)


def _thumbnail(photo: Path) -> str:
    with Image.open(photo) as image:
        small = ImageOps.contain(ImageOps.exif_transpose(image).convert("RGB"), (_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _track(config: TrainConfig, place: Place) -> None:
    """Log to the run that made the present checkpoint, or to a new one."""
    run = checkpoint.read_run(place.run).mlflow_run_id if place.run.exists() else None
    try:
        tracker = Tracker(config.tracking, run)
    except PipelineError:
        tracker = Tracker(config.tracking)  # the run is in another machine's store
    for name in ("suspects.csv", "suspects.html"):
        tracker.log_file(place.audit / name, "audit")
    tracker.finish()
