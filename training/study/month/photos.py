"""Photos in, what the released network sees in them out: features and drift quantities, in each world.

A photo takes some 20 ms of a core, so what is seen is kept in a file for each world: an interrupted study
resumes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common import files
from common.cores import map_on_cores
from common.errors import PipelineError
from evaluation.figures.intervals import Ints
from serving.contract.preprocess import preprocess
from serving.contract.reference import CONFIDENCE, PREDICTION, measure
from training.photos.manifest import Manifest
from training.place import Place
from training.study.month.backbone import Backbone
from training.study.month.head import Head
from training.study.month.seasons import AS_TAKEN, WORLDS, changed

REPLAYED: Final = 1500
"""Old training photos that each retraining sees again."""
_FEATURES: Final = "features"


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos of the month in each world, some old training photos, and the released model."""

    features: npt.NDArray[np.float32]
    """`f32[W,N,D]`."""
    quantities: dict[str, npt.NDArray[np.float64]]
    """`f64[W,N]` by name: the drift quantities that do not depend on the head."""
    targets: Ints
    """`i[N]`."""
    replay: npt.NDArray[np.float32]
    """`f32[R,D]`: features of old training photos as taken."""
    replay_targets: Ints
    """`i[R]`."""
    released: Head
    model: str
    """Name and version of the released model."""
    uncertain_below: float
    """Probability below which an answer is uncertain."""
    unfamiliar_above: float
    """Feature distance above which a photo is unfamiliar."""


def observe(model: Path, manifest: Manifest, place: Place) -> Photos:
    """See the validation photos in each world, and some training photos as taken.

    Args:
        model: The released ONNX artefact.
        manifest: The photos that it was trained and validated on.
        place: Has the cache.

    Raises:
        ArtifactError: the artefact cannot be read.
        PipelineError: it has other classes than the photos, or not what the study needs.
    """
    backbone = Backbone(model)
    card = backbone.card
    if card.labels != manifest.labels:
        raise PipelineError(
            f"{model} has the classes {', '.join(card.labels)}, the photos {', '.join(manifest.labels)}. "
            "Prepare the photos that the model was trained on: make data."
        )
    train, validation = manifest.splits["train"], manifest.splits["validation"]
    chosen = np.linspace(0, len(train.paths) - 1, min(REPLAYED, len(train.paths))).astype(int)
    known = f"{backbone.sha256} {manifest.sha256}"
    old = [train.paths[index] for index in chosen]
    replayed = _seen(backbone, old, AS_TAKEN, place.month, known, "training photos")
    worlds = [_seen(backbone, validation.paths, world, place.month, known, world) for world in WORLDS]
    names = worlds[0].keys() - {_FEATURES, CONFIDENCE, PREDICTION}
    return Photos(
        features=np.stack([seen[_FEATURES] for seen in worlds]),
        quantities={name: np.stack([seen[name] for seen in worlds]) for name in sorted(names)},
        targets=np.array(validation.targets),
        replay=replayed[_FEATURES],
        replay_targets=np.array(train.targets)[chosen],
        released=backbone.head,
        model=f"{card.name} {card.version}",
        uncertain_below=card.abstain_threshold,
        unfamiliar_above=np.inf if card.unfamiliar_above is None else card.unfamiliar_above,
    )


def _seen(
    backbone: Backbone, paths: list[Path], world: str, cache: Path, known: str, title: str
) -> dict[str, npt.NDArray[np.float32]]:
    """Features `f32[N,D]` and drift quantities `f64[N]` by name, from the cache if they are there."""
    key = f"{known} {title} {WORLDS[world]} {len(paths)}"
    kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not kept.exists():

        def see(index: int) -> dict[str, npt.NDArray[np.float32] | float]:
            image = preprocess(paths[index].read_bytes(), backbone.card.input_size)
            pixels = changed(image.pixels, WORLDS[world], seed=index)
            features, probabilities, distance = backbone.run(pixels)
            quantities = measure(pixels, image.width, image.height, probabilities.tolist(), distance)
            return {_FEATURES: features, **quantities}

        rows = map_on_cores(see, range(len(paths)), title)
        columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        with files.atomic_file(kept) as partial, partial.open("wb") as file:
            np.savez(file, **columns)
    with np.load(kept) as arrays:
        return dict(arrays)
