"""Where the pipeline's files are: one record of every path, made at the command line and passed in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.labels import REVIEWED


class _Below:
    """A path below the root of the place that it is asked of."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def __get__(self, place: Place, kind: type[Place]) -> Path:
        return place.root / self._path


@dataclass(frozen=True, slots=True)
class Place:
    """Every path of a pipeline; tests/pipeline holds dvc.yaml to what is opened."""

    root: Path = Path()
    """The folder that the pipeline runs in."""

    data_config = _Below("configs/data.yaml")
    """Configuration of fetch and prepare."""
    train_config = _Below("configs/train.yaml")
    """Configuration of training and export."""
    reviewed = _Below(REVIEWED)
    """Labels that a person has reviewed (`common.labels`)."""
    downloads = _Below("build/downloads")
    """Archives, kept so that no download is repeated."""
    raw = _Below("data/raw")
    """Raw photos, `<label>/<file>`."""
    fetch_report = _Below("data/fetch.json")
    """What was fetched, from where."""
    prepared = _Below("data/prepared")
    """Folder of the three files that `prepare` writes."""
    manifest = _Below("data/prepared/manifest.csv")
    """One row a photo kept."""
    dropped = _Below("data/prepared/dropped.csv")
    """One row a file dropped, with its reason."""
    summary = _Below("data/prepared/summary.json")
    """Counts by split, class and reason."""
    decoded = _Below("build/photos")
    """Decoded photos, a cache."""
    work = _Below("build/train")
    """Progress of trainings that are not finished, a folder each."""
    checkpoint = _Below("models/checkpoint.ckpt")
    """The trained network (`training.fit.checkpoint`)."""
    run = _Below("models/run.json")
    """The MLflow run and the data that the checkpoint comes from."""
    train_report = _Below("reports/train")
    """Predictions, curves and pictures of the training."""
    model = _Below("models/model.pt")
    """The artefact."""
    audit = _Below("build/audit")
    """Probable wrong labels."""
    ablation = _Below("build/ablation")
    """Trainings with a part of the recipe left out: a pipeline's folder of its own."""
    bench = _Below("build/bench-train")
    """Measured training speed."""
