"""The released model and the checkpoint from the start in, the better checkpoint out.

The second training has a pipeline folder of its own, `build/continue`. A kill at any moment leaves what a
rerun completes: the choice is written before it is carried out.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from common import files
from common.errors import PipelineError
from evaluation.figures.intervals import decode
from serving.contract import artifact
from serving.contract.artifact import Artifact
from training.config import TrainConfig
from training.fit import checkpoint
from training.fit.distributed import Processes
from training.fit.job import Job, fingerprint
from training.fit.phases import fit
from training.network.build import build
from training.network.released import OtherNetwork
from training.photos.manifest import Manifest, read_manifest
from training.place import Place
from training.starts.figures import Starts, as_text, compare
from training.tracking import Tracker


def choose(config: TrainConfig, place: Place) -> None:
    """Train from the released model and keep the better network, unless that has been done.

    Args:
        config: The recipe; `model.weights` names the released model.
        place: The pipeline, trained from the start.

    Raises:
        PipelineError: the checkpoint is missing or of other photos, or the training fails.
        ArtifactError: there is no released model, or it is damaged.
    """
    own, manifest, earlier = Place(place.continued), read_manifest(place), _earlier(place)
    first = Processes(config.trainer).is_first
    if first and earlier and _is_half_done(earlier, place):
        _install(own, place)
    if checkpoint.read_run(place.run).data_sha256 != manifest.sha256:
        raise PipelineError(
            f"{place.checkpoint} was trained on another manifest than the present one in {place.prepared}. "
            "Train first: make train."
        )
    champion = artifact.read(Path(config.model.weights).expanduser())
    if why := _unsuitable(config, champion, manifest):
        place.starts.unlink(missing_ok=True)  # of earlier photos or of another release
        print(f"Nothing is trained from {config.model.weights}: {why}. {place.checkpoint} stays.")
        return
    recipe = fingerprint(config, manifest)
    known = earlier if earlier and earlier.recipe == recipe else None
    present = files.sha256(place.checkpoint)
    if known and present == getattr(known, known.kept).checkpoint_sha256:
        print(f"{as_text(known)}\nThis has been done: nothing changes.")
        return
    if not known or known.from_champion.checkpoint_sha256 != _sha256(own.checkpoint):
        _train(config, champion, manifest, place, own)
    if not first:
        return
    found = compare(champion, recipe, manifest, place, own)
    files.write_json(place.starts, found)
    if found.kept == "from_champion":
        _install(own, place)
    _track(config, found, place)
    print(as_text(found))


def _earlier(place: Place) -> Starts | None:
    """The last choice, if it can be read."""
    try:
        return decode(place.starts.read_bytes(), Starts)
    except (FileNotFoundError, ValueError):
        return None


def _is_half_done(earlier: Starts, place: Place) -> bool:
    """Whether an earlier call was killed while it replaced the files of one network by those of the other."""
    known = (earlier.from_start.checkpoint_sha256, earlier.from_champion.checkpoint_sha256)
    return earlier.kept == "from_champion" and not place.run.exists() and _sha256(place.checkpoint) in known


def _sha256(path: Path) -> str:
    """Of a file that may be missing."""
    return files.sha256(path) if path.exists() else ""


def _unsuitable(config: TrainConfig, champion: Artifact, manifest: Manifest) -> str:
    """Why a training from the released model makes no sense; empty if it does."""
    card = champion.card
    if card.labels != manifest.labels:
        return f"its classes are {', '.join(card.labels)}, those of the photos {', '.join(manifest.labels)}"
    if card.input_size != config.model.input_size:
        return f"it takes {card.input_size} pixels, and model.input_size is {config.model.input_size}"
    if card.lineage.data_hash == manifest.sha256:
        return "it was trained on exactly these photos"
    try:
        build(config.model, len(manifest.labels))
    except OtherNetwork as error:
        return str(error).rstrip(".")
    return ""


def _train(config: TrainConfig, champion: Artifact, manifest: Manifest, place: Place, own: Place) -> None:
    """Train in `own`, with the decoded photos of the pipeline."""
    job = Job.plan(config, manifest, place)
    tags = {
        "start": "champion",
        "champion.version": champion.card.version,
        "champion.sha256": champion.sha256,
    }
    fit(replace(job, place=own, work=own.work / job.work.name), tags=tags)


def _install(own: Place, place: Place) -> None:
    """Make the network of `own` the pipeline's.

    The export needs all three files, and they must belong together: between the first step and the last there
    is no `models/run.json`, without which it refuses.
    """
    place.run.unlink(missing_ok=True)
    with files.atomic_file(place.checkpoint) as partial:
        shutil.copyfile(own.checkpoint, partial)
    with files.atomic_folder(place.train_report) as partial:
        shutil.copytree(own.train_report, partial, dirs_exist_ok=True)
    with files.atomic_file(place.run) as partial:
        shutil.copyfile(own.run, partial)


def _track(config: TrainConfig, found: Starts, place: Place) -> None:
    """Log the choice to the run of the second training."""
    with Tracker(config.tracking, found.from_champion.mlflow_run_id) as run:
        run.log_metrics(
            {"from_start_val_loss": found.from_start.loss, "from_champion_val_loss": found.from_champion.loss}
        )
        run.set_tags({"start.kept": found.kept})
        run.log_file(place.starts)
