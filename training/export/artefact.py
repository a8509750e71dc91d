"""Checkpoint in, artefacts out: the network with card and probe, calibrated on validation.

The test split is not used; `evaluation.release` measures on it what it releases.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from common import files
from common.cores import map_on_cores
from common.errors import PipelineError
from common.photos import find_photos
from common.production import PRODUCTION
from evaluation.figures import metrics
from serving.contract.card import Card
from serving.contract.reference import LEAST_PHOTOS, Reference, make_reference
from serving.runtime import onnx, torchscript
from serving.runtime.network import Network
from serving.runtime.onnx import OnnxNetwork
from training.config import TrainConfig
from training.export.calibrate import CalibratedClassifier
from training.export.card import make_card
from training.export.graph import make_graph, with_temperature
from training.export.measure import measure
from training.export.probe import make_probe
from training.export.quantise import quantise
from training.export.strangers import evenly_spaced, find_prototypes
from training.export.trace import check_equal, trace_methods
from training.fit import checkpoint, predictions
from training.fit.predictions import Predictions
from training.network.build import Classifier
from training.network.predict import predict_all
from training.photos.decoded import DecodedPhotos
from training.photos.manifest import Manifest, read_manifest
from training.place import Place
from training.tracking import Tracker


@dataclass(frozen=True, slots=True)
class _Export:
    """What the artefacts of one export share."""

    config: TrainConfig
    trained: checkpoint.Checkpoint
    run: checkpoint.Run
    network: Classifier
    photos: DecodedPhotos

    @property
    def size(self) -> int:
        side: int = self.trained.model.input_size
        return side

    def card(
        self,
        exported: Network,
        precision: Literal["fp32", "int8"],
        temperature: float,
        validation: Predictions,
    ) -> Card:
        """The card of an exported network, which measures the drift reference."""
        manifest = self.photos.manifest
        measured = measure(exported, manifest.splits["validation"].paths, self.size)
        represented = _reference(self.config, manifest, measured, exported, self.size)
        return make_card(
            self.config.export, self.trained, self.run, self.network.read_size, temperature, validation,
            measured, represented, precision,
        )  # fmt: skip


def export(config: TrainConfig, place: Place) -> None:
    """Write the artefacts, log them to their MLflow run and register them.

    The network becomes a TorchScript file, an ONNX file with the same card and probe, and an int8 ONNX file
    with a card and a probe of its own.

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
    network = trained.network()
    if config.export.read_size > size:
        network.read_size = config.export.read_size
    photos = DecodedPhotos(manifest, size, place.decoded, config.loader.cache_limit)
    common = _Export(config, trained, run, network, photos)
    validation = _judge(network, common.photos, place)
    temperature = metrics.fit_temperature(validation.log_probabilities, validation.targets)
    model = CalibratedClassifier(network, temperature, find_prototypes(network, common.photos)).eval()
    graph = make_graph(model, size)
    card = _export_fp32(common, model, graph, validation, place)
    _register(config, place, card, _export_int8(common, graph, place), validation)


def _export_fp32(
    common: _Export, model: CalibratedClassifier, graph: bytes, validation: Predictions, place: Place
) -> Card:
    traced = trace_methods(model, common.size)
    check_equal(model, traced, common.size)
    card = common.card(OnnxNetwork(graph), "fp32", float(model.temperature), validation)
    probe = make_probe(model.predict, common.size)
    torchscript.save(place.model, traced, card, probe)
    onnx.save(place.onnx, graph, card, probe)
    return card


def _export_int8(common: _Export, graph: bytes, place: Place) -> Card:
    """Quantise the graph and calibrate it again; its probe has its own probabilities."""
    training = common.photos["train"]
    chosen = evenly_spaced(len(training), common.config.export.calibration_photos)
    quantised = quantise(
        with_temperature(graph, 1.0), np.stack([training[index] for index in chosen.tolist()])
    )
    validation = _predict(OnnxNetwork(quantised), common.photos)
    temperature = metrics.fit_temperature(validation.log_probabilities, validation.targets)
    quantised = with_temperature(quantised, temperature)
    exported = OnnxNetwork(quantised)
    card = common.card(exported, "int8", temperature, validation)
    onnx.save(place.int8, quantised, card, make_probe(lambda pixels: exported.run(pixels)[0], common.size))
    return card


def _reference(
    config: TrainConfig,
    manifest: Manifest,
    validation: list[dict[str, float]],
    exported: Network,
    size: int,
) -> Reference:
    """The drift reference: of the configured folder, of enough photos of production, or of validation.

    Raises:
        PipelineError: the folder has no photo, or one that is refused.
    """
    classes = len(manifest.labels)
    if not config.export.reference:
        production = manifest.splits.get(PRODUCTION)
        if not production or len(production.paths) < LEAST_PHOTOS:
            return make_reference(validation, classes)
        source = f"{len(production.paths)} photos drawn at random from production"
        return make_reference(measure(exported, production.paths, size), classes, source)
    folder = Path(config.export.reference)
    photos = find_photos(folder)
    if not photos:
        raise PipelineError(
            f"export.reference: there is no photo in {folder}. Name a folder of photos that represent "
            f"production, or leave it empty to take the validation photos."
        )
    return make_reference(measure(exported, photos, size), classes, f"{len(photos)} photos of {folder.name}")


def _judge(network: Classifier, photos: DecodedPhotos, place: Place) -> Predictions:
    """Predictions on validation; those of the unchanged network are in the training report."""
    if network.read_size is None:
        return predictions.read(place.train_report, "validation")
    logits = predict_all(network, photos["validation"], title="validation predictions")
    return Predictions(log_softmax(logits, axis=1), np.array(photos.manifest.splits["validation"].targets))


def _predict(network: Network, photos: DecodedPhotos) -> Predictions:
    """An exported network's predictions on validation."""
    images = photos["validation"]

    def one(index: int) -> npt.NDArray[np.float32]:
        return network.run(np.array(images[index])[None])[0]

    found = np.concatenate(map_on_cores(one, range(len(images)), "int8 validation predictions"))
    return Predictions(
        np.log(np.maximum(found, np.finfo(np.float32).tiny)),
        np.array(photos.manifest.splits["validation"].targets),
    )


def _register(config: TrainConfig, place: Place, card: Card, small: Card, validation: Predictions) -> None:
    """Log the artefacts in MLflow and register the first; print their figures."""
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
    paths = [place.model, place.onnx, place.int8]
    version = tracker.register(card.name, paths, tags, config.tracking.alias)
    tracker.set_tags({"model.sha256": sha, "model.version": card.version})
    tracker.finish()
    print(
        f"temperature {card.temperature:.3f}: validation ECE {before:.2%} -> {after:.2%}\n"
        f"{_promise(card, config)}"
    )
    for path, its in zip(paths, (card, card, small), strict=True):
        accuracy = its.metrics["accuracy"]
        print(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, version {its.version}, validation accuracy "
            f"{accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}], n={accuracy.n}"
        )
    print(f"registered in MLflow as {card.name} version {version}, alias @{config.tracking.alias}")


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
