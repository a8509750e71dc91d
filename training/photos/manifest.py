"""The manifest for training: photos by split, with their class numbers and reviewed labels.

Training, export, ablation and benchmark read it here; `common.labels` has the reviewed labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common import labels, manifest
from common.errors import PipelineError
from common.files import sha256
from common.production import PRODUCTION
from training.place import Place


@dataclass(frozen=True, slots=True)
class Split:
    """The photos of one split, in the manifest's order."""

    paths: list[Path]
    targets: list[int]
    """Class numbers, indices into `Manifest.labels`."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Photos by split, with their labels."""

    labels: list[str]
    splits: dict[str, Split]
    """By name: train, validation and test; production if there is any, which nothing is trained on."""
    sha256: str
    """Of the manifest file and the reviewed labels: identifies the exact photos, labels and splits."""


def read_manifest(place: Place) -> Manifest:
    """Read the manifest; reviewed labels apply to train and validation.

    Test and production keep their labels as found, so that figures on them stay comparable.

    Raises:
        ManifestError: the manifest is missing or cannot be used.
        LabelsError: the reviewed labels cannot be used.
    """
    table = manifest.read_manifest(place.manifest)
    names = sorted(table["label"].unique())
    measured_on = table["split"].isin(("test", PRODUCTION))
    reviewed = labels.read_reviewed(place.reviewed)
    table = pd.concat([labels.correct(table[~measured_on], reviewed), table[measured_on]])
    number = {label: index for index, label in enumerate(names)}
    splits = {
        str(name): Split(
            [place.raw / path for path in rows["path"]], [number[label] for label in rows["label"]]
        )
        for name, rows in table.groupby("split")
    }
    digest = sha256(place.manifest)
    if len(reviewed):
        digest = hashlib.sha256((digest + sha256(place.reviewed)).encode()).hexdigest()
    return Manifest(names, splits, digest)


def every_nth_for_training(whole: Manifest, share: int) -> Manifest:
    """The same manifest with one of every `share` training photos.

    Raises:
        PipelineError: a class would have none.
    """
    train = whole.splits["train"]
    part = Split(train.paths[::share], train.targets[::share])
    if len(set(part.targets)) < len(whole.labels):
        raise PipelineError(
            f"One of every {share} training photos leaves a class empty: choose a smaller --share."
        )
    digest = hashlib.sha256(f"{whole.sha256}:{share}".encode()).hexdigest()
    return Manifest(whole.labels, whole.splits | {"train": part}, digest)
