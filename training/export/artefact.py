"""Checkpoint in, artefact out: one TorchScript file with card and probe, calibrated on validation.

The test split is not used; `evaluation.release` measures on it what it releases.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from common import files
from common.errors import PipelineError
from common.photos import find_photos
from evaluation.figures import metrics
from serving.contract.card import Card
from serving.contract.reference import Reference, make_reference
from serving.runtime import torchscript
from training.config import TrainConfig
from training.export.calibrate import CalibratedClassifier
from training.export.card import make_card
from training.export.measure import measure
from training.export.probe import make_probe
from training.export.strangers import evenly_spaced, find_prototypes
from training.export.trace import check_equal, trace_methods
from training.fit import checkpoint, predictions
from training.fit.predictions import Predictions
from training.network.build import Classifier
from training.network.predict import predict_all
from training.network.quantise import quantise
from training.photos.decoded import DecodedPhotos
from training.photos.manifest import read_manifest
from training.place import Place
from training.tracking import Tracker


def export(config: TrainConfig, place: Place) -> None:
    """Write the artefact, log it to its MLflow run and register it.

    Raises:
        PipelineError: the checkpoint is missing, has another schema, or was trained on other photos.
    """
    trained, run = checkpoint.read(place.checkpoint), checkpoint.read_run(place.run)
    manifest = read_manifest(place)
    if run.data_sha256 != manifest.sha256:
        raise PipelineError(
            f"{place.checkpoint} was trained on another manifest than the present one in {place.prepared}. "
            "Train again: make train."
        )
    size = trained.model.input_size
    photos = DecodedPhotos(manifest, size, place.decoded)
    network = _network(config, trained.network(), photos)
    validation = _judge(network, config, photos, place)
    temperature = metrics.fit_temperature(validation.log_probabilities, validation.targets)
    model = CalibratedClassifier(network, temperature, find_prototypes(network, photos)).eval()
    traced = trace_methods(model, size)
    check_equal(model, traced, size)
    measured = measure(traced, manifest.splits["validation"].paths, size)
    represented = _reference(config, measured, traced, size, len(trained.labels))
    card = make_card(
        config.export, trained, run, network.read_size, temperature, validation, measured, represented
    )
    torchscript.save(place.model, traced, card, make_probe(model, size))
    _register(config, place, card, validation)


def _reference(
    config: TrainConfig,
    validation: list[dict[str, float]],
    traced: torch.jit.ScriptModule,
    size: int,
    classes: int,
) -> Reference:
    """The drift reference: of the configured folder, or of the validation photos.

    Raises:
        PipelineError: the folder has no photo, or one that is refused.
    """
    if not config.export.reference:
        return make_reference(validation, classes)
    folder = Path(config.export.reference)
    photos = find_photos(folder)
    if not photos:
        raise PipelineError(
            f"export.reference: there is no photo in {folder}. Name a folder of photos that represent "
            f"production, or leave it empty to take the validation photos."
        )
    return make_reference(measure(traced, photos, size), classes, f"{len(photos)} photos of {folder.name}")


def _network(config: TrainConfig, network: Classifier, photos: DecodedPhotos) -> Classifier:
    """The network to serve: enlarging its input or quantised, if configured."""
    if config.export.read_size > photos.size:
        network.read_size = config.export.read_size
    if config.export.precision == "int8":
        training = photos["train"]
        chosen = evenly_spaced(len(training), config.export.calibration_photos)
        network = quantise(network, np.array(training[chosen]))
    return network


def _judge(network: Classifier, config: TrainConfig, photos: DecodedPhotos, place: Place) -> Predictions:
    """Predictions on validation; those of the unchanged network are in the training report."""
    if config.export.precision == "fp32" and network.read_size is None:
        return predictions.read(place.train_report, "validation")
    logits = predict_all(network, photos["validation"], title="validation predictions")
    return Predictions(log_softmax(logits, axis=1), np.array(photos.manifest.splits["validation"].targets))


def _register(config: TrainConfig, place: Place, card: Card, validation: Predictions) -> None:
    """Log and register the artefact in MLflow; print its figures."""
    before, after = (
        metrics.expected_calibration_error(
            softmax(validation.log_probabilities / temperature, axis=1), validation.targets
        )
        for temperature in (1.0, card.temperature)
    )
    tracker = Tracker(config.tracking, card.lineage.mlflow_run_id)
    tracker.log_metrics({"temperature": card.temperature, "validation_ece": after})
    sha = files.sha256(place.model)
    tags = {"sha256": sha, "card_version": card.version}
    version = tracker.register(card.name, place.model, tags, config.tracking.alias)
    tracker.set_tags({"model.sha256": sha, "model.version": card.version})
    tracker.finish()
    accuracy = card.metrics["accuracy"]
    print(
        f"temperature {card.temperature:.3f}: validation ECE {before:.2%} -> {after:.2%}\n"
        f"{_promise(card, config)}\n"
        f"validation accuracy {accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}], "
        f"n={accuracy.n}\n{place.model}: {place.model.stat().st_size / 1e6:.1f} MB, sha256 {sha[:12]}…, "
        f"version {card.version}\nregistered in MLflow as {card.name} version {version}, "
        f"alias @{config.tracking.alias}"
    )


def _promise(card: Card, config: TrainConfig) -> str:
    """What is guaranteed of the predictions that are not marked uncertain."""
    bound = card.abstain_bound or 1.0
    promise = (
        f"predictions from {card.abstain_threshold:.3f} on, not marked uncertain: at most {bound:.2%} wrong, "
        "with a confidence of 95 %"
    )
    if bound <= config.export.accepted_error_max:
        return promise
    wanted = config.export.accepted_error_max
    return f"{promise}; the validation photos are too few, or too often wrong, to show {wanted:.2%}"
