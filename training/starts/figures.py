"""What `build/continue/starts.json` holds: a training from the start and one from the released model."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from common import files
from common.errors import PipelineError
from evaluation.figures import intervals, metrics
from evaluation.figures.intervals import Figure
from serving.contract.artifact import Artifact
from training.fit import checkpoint, predictions
from training.fit.predictions import Predictions
from training.photos.manifest import Manifest
from training.place import Place


class Start(msgspec.Struct, frozen=True):
    """One of the two trainings."""

    weights: str
    """What its backbone began with, as `model.weights` of its recipe."""
    loss: float
    """Mean log loss on validation after calibration, in nats: the lower one is kept."""
    accuracy: Figure
    """On validation."""
    n: int
    """Validation photos."""
    mlflow_run_id: str
    """MLflow's id of the run."""
    checkpoint_sha256: str
    """Of its checkpoint."""


class Champion(msgspec.Struct, frozen=True):
    """The released model."""

    version: str
    """Of its card."""
    sha256: str
    """Of the file."""


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """Both trainings, and which of them is kept."""

    champion: Champion
    """The released model that the second one began with."""
    kept: Literal["from_start", "from_champion"]
    """The one with the lower loss."""
    from_start: Start
    """The checkpoint that `make train` left."""
    from_champion: Start
    """The checkpoint of `build/continue`."""
    accuracy_difference: Figure
    """Accuracy from the released model minus that from the start, on the same photos."""
    data_sha256: str
    """`Manifest.sha256` of the photos of both."""
    recipe: str
    """Fingerprint of what the second training follows from: recipe, photos, released model and libraries."""


def compare(champion: Artifact, recipe: str, manifest: Manifest, place: Place, own: Place) -> Starts:
    """Compare the networks of two pipeline folders on validation.

    Args:
        champion: The released model.
        recipe: Fingerprint of the training in `own`.
        manifest: The photos of both.
        place: Where the network from the start is.
        own: Where the network from the released model is.

    Raises:
        PipelineError: a checkpoint or a report is missing, damaged, or of other photos.
    """
    first, second = (_predictions(manifest, folder) for folder in (place, own))
    start, continued = _start(first, place), _start(second, own)
    return Starts(
        champion=Champion(champion.card.version, champion.sha256),
        kept="from_champion" if continued.loss < start.loss else "from_start",
        from_start=start,
        from_champion=continued,
        accuracy_difference=intervals.paired_difference(
            *(found.log_probabilities.argmax(1) == found.targets for found in (second, first))
        ),
        data_sha256=manifest.sha256,
        recipe=recipe,
    )


def as_text(found: Starts) -> str:
    """Both networks and the choice, for a person."""
    gap = found.accuracy_difference
    kept = "released model" if found.kept == "from_champion" else "start"
    lines = [
        f"from {name}: loss {start.loss:.4f} nats after calibration, accuracy {start.accuracy.value:.4f} "
        f"[{start.accuracy.low:.4f}, {start.accuracy.high:.4f}], n={start.n}"
        for name, start in (
            (f"the weights {found.from_start.weights}", found.from_start),
            (f"the released model {found.champion.version}", found.from_champion),
        )
    ]
    lines.append(
        f"Accuracy, second minus first: {100 * gap.value:+.2f} points [{100 * gap.low:+.2f}, "
        f"{100 * gap.high:+.2f}]. Kept: the network from the {kept}."
    )
    return "\n".join(lines)


def _start(found: Predictions, place: Place) -> Start:
    return Start(
        weights=checkpoint.read(place.checkpoint).model.weights,
        loss=metrics.calibrated_loss(found.log_probabilities, found.targets),
        accuracy=metrics.accuracy(found.log_probabilities, found.targets),
        n=len(found.targets),
        mlflow_run_id=checkpoint.read_run(place.run).mlflow_run_id,
        checkpoint_sha256=files.sha256(place.checkpoint),
    )


def _predictions(manifest: Manifest, place: Place) -> Predictions:
    """Validation's predictions in a report.

    Raises:
        PipelineError: there are none, or they are of other photos.
    """
    try:
        found = predictions.read(place.train_report, "validation")
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"{place.train_report} has no predictions. Train again: make train.") from error
    if not np.array_equal(found.targets, manifest.splits["validation"].targets):
        raise PipelineError(f"{place.train_report} is of other photos. Train again: make train.")
    return found
