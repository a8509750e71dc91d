"""Where the photos of `data/raw` come from: the record `data/fetch.json`."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import msgspec

from common import files
from common.production import PRODUCTION

REVIEW, FEEDBACK = "review", "feedback"
"""Kinds of source that a service has collected."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a review says of the photos of a batch, without anybody's name."""

    first: date | None
    """Day (UTC) on which the first of the photos was answered."""
    last: date | None
    production_first: date | None
    """The same of the photos of the production test set; None if the batch has none."""
    models: list[str]
    """Versions of the models that answered."""
    people: int
    """Number of people whose verdicts count."""
    apart: dict[str, int]
    """Number of photos in the review that are neither trained on nor in the test set, by reason."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `make data ADD=…` added."""

    source: str
    """Kind of source: review, feedback, url, archive, folder or table."""
    name: str
    """Name of the file, folder or host, without a path."""
    sha256: str
    """Of the sorted names and contents of the photos."""
    added: date
    """Day (UTC)."""
    files: dict[str, dict[str, int]]
    """Number of photos by folder below each class, then by class."""
    review: Answers | None = None
    """Of a review only."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was fetched, and what was added to it; written to `data/fetch.json`."""

    source: str
    """Kind of source: microsoft, kaggle, url, archive, folder, table or sample."""
    name: str
    """File or folder name, without its path."""
    sha256: str
    """Of the archive, or of the sorted names and contents of the photos."""
    bytes: int
    """Size of the archive or of all files."""
    files: dict[str, int]
    """Number of files per class."""
    kept_test: list[str] = field(default_factory=list)
    """Folders, below each class, that hold the owner's test split, which `prepare` then keeps."""
    production: list[str] = field(default_factory=list)
    """Folders, below each class, that hold the production test set."""
    added: list[Batch] = field(default_factory=list)
    """What was added, the earliest first."""

    def present(self, raw: Path) -> Report:
        """The same without the batches of which no photo is in `raw`: withdrawn, deleted, or never come."""
        there = {path.parts[len(raw.parts) + 1] for path in raw.glob("*/*/**/*") if path.is_file()}
        added = [batch for batch in self.added if not there.isdisjoint(batch.files)]
        return replace(self, production=production_folders(added), added=added)


def read(path: Path) -> Report:
    """The record of an earlier fetch."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


class _Added(msgspec.Struct):
    added: list[Batch] = []


def read_batches(path: Path) -> list[Batch]:
    """What was added so far, the earliest first."""
    return msgspec.json.decode(path.read_bytes(), type=_Added).added if path.exists() else []


def production_folders(batches: list[Batch]) -> list[str]:
    """The folders of batches that hold the production test set."""
    return [name for batch in batches for name in batch.files if name.startswith(f"{PRODUCTION}-")]


def collected_folders(batches: list[Batch]) -> list[str]:
    """The other folders of batches from a review or from feedback."""
    return [
        name
        for batch in batches
        if batch.source in (REVIEW, FEEDBACK)
        for name in batch.files
        if not name.startswith(f"{PRODUCTION}-")
    ]


def describe(kind: str, name: str, folder: Path) -> Report:
    """Count and hash all files below a folder, whose first level are the classes."""
    counts, size, digest = Counter[str](), 0, hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            relative = path.relative_to(folder)
            counts[relative.parts[0]] += 1
            size += path.stat().st_size
            digest.update(f"{relative.as_posix()}\0{files.sha256(path)}\n".encode())
    return Report(kind, name, digest.hexdigest(), size, dict(counts))
