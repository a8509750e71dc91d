"""The pipeline's paths: one record, made by each command and passed in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.labels import REVIEWED


class _Below:
    """A path relative to the root of the `Place` it is read from."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def __get__(self, place: Place, kind: type[Place]) -> Path:
        return place.root / self._path


@dataclass(frozen=True, slots=True)
class Place:
    """Every path of a pipeline; tests/pipeline compares dvc.yaml with the files that are opened."""

    root: Path = Path()
    """The folder in which the pipeline runs."""

    data_config = _Below("configs/data.yaml")
    """Configuration of fetch and prepare."""
    train_config = _Below("configs/train.yaml")
    """Configuration of training and export."""
    continue_config = _Below("configs/continue.yaml")
    """What overrides it for a training from the released model."""
    reviewed = _Below(REVIEWED)
    """Labels that a person has reviewed (`common.labels`)."""
    downloads = _Below("build/downloads")
    """Downloaded archives, kept to avoid repeated downloads."""
    raw = _Below("data/raw")
    """Raw photos, `<label>/<file>`."""
    fetch_report = _Below("data/fetch.json")
    """What was fetched and from where."""
    prepared = _Below("data/prepared")
    """Folder of the three files that `prepare` writes."""
    manifest = _Below("data/prepared/manifest.csv")
    """One row per kept photo."""
    dropped = _Below("data/prepared/dropped.csv")
    """One row per dropped file, with the reason."""
    summary = _Below("data/prepared/summary.json")
    """Counts by split, class and reason."""
    decoded = _Below("build/photos")
    """Cache of decoded photos."""
    work = _Below("build/train")
    """Progress of unfinished trainings, one folder each."""
    checkpoint = _Below("models/checkpoint.ckpt")
    """The trained network (`training.fit.checkpoint`)."""
    run = _Below("models/run.json")
    """The checkpoint's MLflow run and data."""
    train_report = _Below("reports/train")
    """Predictions, curves and pictures of the training."""
    continued = _Below("build/continue")
    """Training from the released model, in a pipeline folder of its own."""
    starts = _Below("build/continue/starts.json")
    """Figures of both trainings, and which is kept (`training.starts.figures`)."""
    model = _Below("models/model.pt")
    """The artefact, in TorchScript."""
    onnx = _Below("models/model.onnx")
    """The same in ONNX."""
    int8 = _Below("models/model-int8.onnx")
    """Its quantised version."""
    audit = _Below("build/audit")
    """Probable wrong labels."""
    review = _Below("build/suspects.db")
    """Those that people review, and their verdicts; not in `audit`, which the next audit replaces."""
    ablation = _Below("build/ablation")
    """Trainings with one part of the recipe left out, in a pipeline folder of their own."""
    tune = _Below("build/tune")
    """Search for better values of the recipe, in a pipeline folder of its own."""
    bench = _Below("build/bench-train")
    """Measured training throughput."""
    month = _Below("build/month")
    """A simulated month, and what the released network sees in its photos."""
