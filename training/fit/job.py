"""One training: its configuration, its photos and its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import lightning
import torch

from common import files
from training.config import TrainConfig
from training.photos.decoded import DecodedPhotos
from training.photos.manifest import Manifest
from training.place import Place

_NOT_TRAINING: Final = ("tracking", "export")
_NOT_THE_RESULT: Final = (("loader", "workers"), ("loader", "cache_limit"), ("trainer", "threads"))
"""How fast it is, but not what comes out: photos and augmentation follow from the seed alone."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every part of a training needs."""

    config: TrainConfig
    manifest: Manifest
    place: Place
    photos: DecodedPhotos
    work: Path
    """Folder of its progress, named by a hash of everything that changes the training."""

    @classmethod
    def plan(cls, config: TrainConfig, manifest: Manifest, place: Place) -> Job:
        """Prepare the job and its cache of decoded photos."""
        photos = DecodedPhotos(manifest, config.model.input_size, place.decoded, config.loader.cache_limit)
        return cls(config, manifest, place, photos, place.work / fingerprint(config, manifest))


def fingerprint(config: TrainConfig, manifest: Manifest) -> str:
    """A hash of everything that changes the result of a training."""
    values = {name: value for name, value in asdict(config).items() if name not in _NOT_TRAINING}
    for section, key in _NOT_THE_RESULT:
        del values[section][key]
    weights = Path(config.model.weights).expanduser()
    if weights.is_file():  # another model may be released under the same name
        values["model"]["weights"] = files.sha256(weights)
    text = json.dumps([values, manifest.sha256, lightning.__version__, torch.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
