"""Manifest in, best checkpoint out, with its predictions, curves and pictures.

Phase one trains a linear head on the frozen backbone's features, phase two the whole network. All
progress lives in `build/train/<fingerprint>`; a run that was killed goes on there with the same
MLflow run, and one with another configuration or data begins afresh.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

import lightning
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from scipy.special import log_softmax, softmax
from torch.utils.data import DataLoader, TensorDataset

from common import files
from common.errors import PipelineError
from evaluation.figures import metrics, pictures
from training import place
from training.config import TrainConfig
from training.fit import distributed
from training.fit.trainer import quiet_lightning, run_trainer
from training.network.build import Classifier, Features, build
from training.network.predict import forward_all
from training.network.task import ClassificationTask, Optimisation
from training.photos.data import EpochShuffle, Manifest, PhotoData, read_manifest
from training.photos.decoded import DecodedPhotos
from training.teacher import read_answers
from training.tracking import Tracker, git_commit

CHECKPOINT_SCHEMA: Final = 1
_START: Final = "start.pt"
_EVALUATED: Final = ("validation", "test")


def fit(config: TrainConfig) -> None:
    """Train as configured and write what the stage owns (see `training.place`).

    Raises:
        PipelineError: no manifest, an unknown backbone, or MLflow cannot be reached.
    """
    manifest = read_manifest()
    if config.head.epochs == 0 and not config.finetune.input_sizes:
        raise PipelineError("head.epochs is 0 and finetune.input_sizes empty: there is nothing to train.")
    answers = read_answers(config, manifest)
    quiet_lightning()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    cores_each = max(1, torch.get_num_threads() // config.trainer.devices)
    torch.set_num_threads(config.trainer.threads or cores_each)
    work = place.WORK / _fingerprint(config, manifest)
    if distributed.rank():
        _follow(config, manifest, answers, work)
        return
    tracker = _open_run(config, manifest, work)
    status = "FAILED"
    try:
        photos = DecodedPhotos(manifest, config.model.input_size)
        network, losses = _begin(config, manifest, photos, tracker, work)
        head_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if config.finetune.input_sizes:
            data = PhotoData(manifest, photos, config, answers)
            losses["finetune"] = _finetune(config, data, network, tracker, work / "finetune")
        best = min(losses, key=lambda phase: losses[phase])
        if best == "head":
            network.load_state_dict(head_state)
        tracker.log_metrics({"best_val_loss": losses[best]})
        tracker.set_tags({"best_phase": best})
        _write_results(config, manifest, photos, network, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    shutil.rmtree(work)


def _begin(
    config: TrainConfig, manifest: Manifest, photos: DecodedPhotos, tracker: Tracker, work: Path
) -> tuple[Classifier, dict[str, float]]:
    """The network with its head trained, and the loss by phase; kept where the other processes find it."""
    network, losses = build(config.model, len(manifest.labels)), {}
    if config.head.epochs:
        losses["head"] = train_head(config, manifest, photos, network, tracker, work / "head")
    if config.trainer.devices * config.trainer.nodes > 1:
        for split in ("train", "validation"):
            photos[split]  # decoded once, by this process
        with files.atomic_file(work / _START) as partial:
            torch.save(network.state_dict(), partial)
    return network, losses


def _follow(
    config: TrainConfig, manifest: Manifest, answers: npt.NDArray[np.float32] | None, work: Path
) -> None:
    """Be one of the processes that fine-tune together; the first one does all the rest."""
    if not config.finetune.input_sizes:
        return
    distributed.wait_for(work / _START)
    network = build(config.model, len(manifest.labels), weights=False)
    network.load_state_dict(torch.load(work / _START, weights_only=True))
    data = PhotoData(manifest, DecodedPhotos(manifest, config.model.input_size), config, answers)
    _finetune(config, data, network, None, work / "finetune")


def _fingerprint(config: TrainConfig, manifest: Manifest) -> str:
    """Names the training: what changes it changes this."""
    values = asdict(config)
    for section in ("tracking", "export"):
        del values[section]
    teacher = files.sha256(place.TEACHER) if config.teacher.share else ""
    text = json.dumps([values, manifest.sha256, teacher, lightning.__version__, torch.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _open_run(config: TrainConfig, manifest: Manifest, work: Path) -> Tracker:
    """Take up the MLflow run of an unfinished training, or begin one."""
    note = work / "run.json"
    run_id = json.loads(note.read_text())["mlflow_run_id"] if note.exists() else None
    tracker = Tracker(config.tracking, run_id)
    if run_id:
        print(f"going on with the unfinished training of MLflow run {run_id}")
        return tracker
    files.write_json(note, {"mlflow_run_id": tracker.run_id})
    tracker.log_config(config)
    tracker.set_tags(
        {
            "git_commit": git_commit(),
            "data.manifest_sha256": manifest.sha256,
            "data.photos": json.dumps({name: len(s.paths) for name, s in manifest.splits.items()}),
            "teacher.sha256": files.sha256(place.TEACHER) if config.teacher.share else "none",
        }
    )
    return tracker


def train_head(
    config: TrainConfig,
    manifest: Manifest,
    photos: DecodedPhotos,
    network: Classifier,
    tracker: Tracker | None,
    work: Path,
) -> float:
    """Train the head on cached features; return its best validation loss."""
    sets = {}
    for split in ("train", "validation"):
        features = _cached_features(photos, network, split, work)
        targets = torch.tensor(manifest.splits[split].targets)
        sets[split] = TensorDataset(torch.from_numpy(features), targets)
    head = config.head
    shuffle = EpochShuffle(len(sets["train"]), config.seed)
    train = DataLoader(sets["train"], head.batch_size, sampler=shuffle)
    val = DataLoader(sets["validation"], head.batch_size)
    task = ClassificationTask(
        torch.nn.Sequential(network.dropout, network.head),
        len(manifest.labels),
        "head",
        Optimisation(head.learning_rate, head.weight_decay),
    )
    return run_trainer(
        config,
        task,
        tracker,
        work,
        head.epochs,
        [],
        train_dataloaders=train,
        val_dataloaders=val,
    )


def _cached_features(
    photos: DecodedPhotos, network: Classifier, split: str, work: Path
) -> npt.NDArray[np.float32]:
    """The backbone's features of one split, `f32[N,D]`, computed once."""
    cache = work / f"features-{split}.npy"
    if not cache.exists():
        values = forward_all(Features(network), photos[split], title=f"{split} features")
        with files.atomic_file(cache) as partial, partial.open("wb") as file:
            np.save(file, values)
    return np.asarray(np.load(cache), np.float32)


def _finetune(
    config: TrainConfig, data: PhotoData, network: Classifier, tracker: Tracker | None, work: Path
) -> float:
    """Train the whole network on augmented photos; return its best validation loss."""
    finetune = config.finetune
    task = ClassificationTask(
        network.to(memory_format=torch.channels_last),
        len(data.manifest.labels),
        "finetune",
        Optimisation(
            finetune.learning_rate,
            finetune.weight_decay,
            finetune.label_smoothing,
            finetune.freeze_norm,
            config.teacher.share,
            config.teacher.temperature,
        ),
    )
    callbacks: list[Callback] = []
    if finetune.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=finetune.ema_decay))
    return run_trainer(
        config,
        task,
        tracker,
        work,
        len(finetune.input_sizes) * finetune.epochs_per_pass,
        callbacks,
        together=True,
        datamodule=data,
    )


def _write_results(
    config: TrainConfig, manifest: Manifest, photos: DecodedPhotos, network: Classifier, tracker: Tracker
) -> None:
    """Predict validation and test, draw, and write everything under its final name."""
    with files.atomic_folder(place.TRAIN_REPORT) as folder:
        for split in _EVALUATED:
            _evaluate_split(manifest, photos, network, tracker, split, folder)
        history = tracker.history(("_loss", "_accuracy"))
        _curves_table(history).to_csv(folder / "curves.csv", index=False)
        figure = pictures.curves(history, f"{config.model.backbone}: loss and accuracy")
        pictures.save(figure, folder / "curves.png")
        tracker.log_figure(figure, "curves.png")
    with files.atomic_file(place.CHECKPOINT) as partial:
        torch.save(
            {
                "schema": CHECKPOINT_SCHEMA,
                "state_dict": network.to(memory_format=torch.contiguous_format).state_dict(),
                "labels": manifest.labels,
                "model": asdict(config.model),
            },
            partial,
        )
    files.write_json(
        place.RUN,
        {
            "mlflow_run_id": tracker.run_id,
            "mlflow_experiment": config.tracking.experiment,
            "data_sha256": manifest.sha256,
            "git_commit": git_commit(),
        },
    )


def _curves_table(history: dict[str, list[tuple[int, float]]]) -> pd.DataFrame:
    """One row a validated step, phases one after the other: step, phase, losses and accuracies."""
    tables, offset = [], 0
    for phase in ("head", "finetune"):
        series = {
            name.removeprefix(f"{phase}_"): dict(points)
            for name, points in history.items()
            if name.startswith((f"{phase}_train_", f"{phase}_val_"))
        }
        table = pd.DataFrame(series).rename_axis("step").reset_index()
        if len(table):
            table["step"] += offset + 1
            offset = int(table["step"].max())
            tables.append(table.assign(phase=phase))
    return pd.concat(tables, ignore_index=True)


def _evaluate_split(
    manifest: Manifest,
    photos: DecodedPhotos,
    network: Classifier,
    tracker: Tracker,
    split: str,
    folder: Path,
) -> None:
    targets = np.array(manifest.splits[split].targets)
    logits = forward_all(network, photos[split], title=f"{split} predictions")
    probabilities = softmax(logits, axis=1)
    table = pd.DataFrame(log_softmax(logits, axis=1), columns=manifest.labels)
    table.insert(0, "target", targets)
    table.to_csv(folder / f"{split}_log_probabilities.csv", index=False)
    accuracy = metrics.accuracy(probabilities, targets)
    tracker.log_metrics(
        {f"{split}_accuracy": accuracy.value, f"{split}_log_loss": metrics.log_loss(probabilities, targets)}
    )
    print(f"{split}: accuracy {accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}], n={accuracy.n}")
    figures = {
        "confusion_matrix": pictures.confusion_matrix(
            metrics.confusion(probabilities, targets), manifest.labels, f"{split} split"
        ),
        "worst_mistakes": pictures.worst_mistakes(
            manifest.splits[split].paths, probabilities, targets, manifest.labels
        ),
    }
    for name, figure in figures.items():
        pictures.save(figure, folder / f"{split}_{name}.png")
        tracker.log_figure(figure, f"{split}/{name}.png")
