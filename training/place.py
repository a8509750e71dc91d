"""Where the pipeline's files are: one record of every path, made at the command line and passed in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.labels import REVIEWED


@dataclass(frozen=True, slots=True)
class Place:
    """Every path below the folder that the pipeline runs in; what dvc.yaml names is tested against it."""

    root: Path = Path()
    """Folder of the pipeline."""

    @property
    def data_config(self) -> Path:
        """Configuration of fetch and prepare."""
        return self.root / "configs/data.yaml"

    @property
    def train_config(self) -> Path:
        """Configuration of training and export."""
        return self.root / "configs/train.yaml"

    @property
    def reviewed(self) -> Path:
        """Labels that a person has reviewed (`common.labels`)."""
        return self.root / REVIEWED

    @property
    def downloads(self) -> Path:
        """Archives, kept so that no download is repeated."""
        return self.root / "build/downloads"

    @property
    def raw(self) -> Path:
        """Raw photos, `<label>/<file>`."""
        return self.root / "data/raw"

    @property
    def fetch_report(self) -> Path:
        """What was fetched, from where."""
        return self.root / "data/fetch.json"

    @property
    def prepared(self) -> Path:
        """Folder of the three files that `prepare` writes."""
        return self.root / "data/prepared"

    @property
    def manifest(self) -> Path:
        """One row a photo kept."""
        return self.prepared / "manifest.csv"

    @property
    def dropped(self) -> Path:
        """One row a file dropped, with its reason."""
        return self.prepared / "dropped.csv"

    @property
    def summary(self) -> Path:
        """Counts by split, class and reason."""
        return self.prepared / "summary.json"

    @property
    def decoded(self) -> Path:
        """Decoded photos, a cache."""
        return self.root / "build/photos"

    @property
    def work(self) -> Path:
        """Progress of trainings that are not finished, a folder each."""
        return self.root / "build/train"

    @property
    def checkpoint(self) -> Path:
        """The trained network (`training.fit.checkpoint`)."""
        return self.root / "models/checkpoint.ckpt"

    @property
    def run(self) -> Path:
        """The MLflow run and the data that the checkpoint comes from."""
        return self.root / "models/run.json"

    @property
    def train_report(self) -> Path:
        """Predictions, curves and pictures of the training."""
        return self.root / "reports/train"

    @property
    def model(self) -> Path:
        """The artefact."""
        return self.root / "models/model.pt"

    @property
    def audit(self) -> Path:
        """Probable wrong labels."""
        return self.root / "build/audit"

    @property
    def ablation(self) -> Path:
        """Trainings with a part of the recipe left out: a pipeline's folder of its own."""
        return self.root / "build/ablation"

    @property
    def bench(self) -> Path:
        """Measured training speed."""
        return self.root / "build/bench-train"
