"""Where each stage puts its files, relative to the folder the pipeline runs in (see dvc.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

RAW: Final = Path("data/raw")
FETCH_REPORT: Final = Path("data/fetch.json")
PREPARED: Final = Path("data/prepared")
MANIFEST: Final = PREPARED / "manifest.csv"
DROPPED: Final = PREPARED / "dropped.csv"
SUMMARY: Final = PREPARED / "summary.json"
DOWNLOADS: Final = Path("build/downloads")
PHOTOS: Final = Path("build/photos")
WORK: Final = Path("build/train")
AUDIT: Final = Path("build/audit")
TEACHER: Final = Path("models/teacher.npz")
TEACHER_WORK: Final = Path("build/teacher")
CHECKPOINT: Final = Path("models/checkpoint.ckpt")
RUN: Final = Path("models/run.json")
MODEL: Final = Path("models/model.pt")
TRAIN_REPORT: Final = Path("reports/train")
EVALUATION_REPORT: Final = Path("reports/evaluation")
