"""Checkpoint in, artefact out: one TorchScript file with card and probe, calibrated on validation."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import warnings
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.cluster import KMeans
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.nn import functional

from common import files
from common.cores import map_on_cores
from common.errors import PipelineError
from evaluation.figures import metrics
from serving.contract import artifact, reference
from serving.contract.card import SCHEMA_VERSION, Card, Lineage, Measured
from serving.contract.preprocess import RESIZE_RULE, preprocess
from serving.runtime import torchscript
from training import place
from training.config import ModelConfig, TrainConfig
from training.export.probe import probe_images
from training.export.quantise import feature_maps, quantise
from training.fit.stage import CHECKPOINT_SCHEMA
from training.network.build import Classifier, Features, build
from training.network.predict import forward_all
from training.photos.data import read_manifest
from training.photos.decoded import DecodedPhotos
from training.tracking import Tracker, git_commit

_LIBRARIES: Final = ("torch", "torchvision", "timm", "lightning", "pillow", "numpy")
_TRACE_TOLERANCE: Final = 1e-4
_PROTOTYPES: Final = 64  # a class
_PROTOTYPE_PHOTOS: Final = 4096  # of the training split, evenly spaced


class CalibratedClassifier(torch.nn.Module):
    """The artefact's methods (see `serving.contract.artifact`) over a trained network."""

    prototypes: torch.Tensor

    def __init__(self, network: Classifier, temperature: float, prototypes: torch.Tensor) -> None:
        """`prototypes` is `f32[P,D]` of length one: directions of the training photos' features."""
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.register_buffer("prototypes", prototypes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to `f32[N,K]`, rows summing to one."""
        return torch.softmax(self.network(images) / self.temperature, dim=1)

    def observe(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`u8[N,3,S,S]` to the probabilities `f32[N,K]` and the features' distance `f32[N]`."""
        features = self.network.features(images)
        distance = 1 - (functional.normalize(features) @ self.prototypes.T).amax(1)
        return torch.softmax(self.network.head(features) / self.temperature, dim=1), distance

    def explain(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to class activation maps `f32[N,K,h,w]` (Zhou et al. 2016), mean over classes 0."""
        maps = feature_maps(self.network, images)
        activation = torch.einsum("kd,ndhw->nkhw", self.network.head.weight, maps)
        return activation - activation.mean(1, keepdim=True)


def export(config: TrainConfig) -> None:
    """Write `models/model.pt`, keep it with the MLflow run and register it.

    Raises:
        PipelineError: no checkpoint, or one of another schema or of other photos.
    """
    run, checkpoint = _read_checkpoint()
    manifest = read_manifest()
    if run["data_sha256"] != manifest.sha256:
        raise PipelineError(
            "models/checkpoint.ckpt was trained on another manifest than data/prepared has now. "
            "Train again: make train."
        )
    labels: list[str] = checkpoint["labels"]
    model_config = ModelConfig(**checkpoint["model"])
    network = build(model_config, len(labels), weights=False)
    network.load_state_dict(checkpoint["state_dict"])
    if config.export.read_size > model_config.input_size:
        network.read_size = config.export.read_size
    photos = DecodedPhotos(manifest, model_config.input_size)
    if config.export.precision == "int8":
        network = quantise(network, np.array(_every(photos["train"], config.export.calibration_photos)))
    if config.export.precision == "fp32" and network.read_size is None:
        validation, test = _read_predictions("validation"), _read_predictions("test")
    else:  # another network than the one whose answers the training wrote
        validation, test = (
            log_softmax(forward_all(network, photos[split], title=f"{split} predictions"), axis=1)
            for split in ("validation", "test")
        )
    validation_targets, test_targets = (
        np.array(manifest.splits[split].targets) for split in ("validation", "test")
    )
    temperature = fit_temperature(validation, validation_targets)
    training = _every(np.arange(len(manifest.splits["train"].targets)), _PROTOTYPE_PHOTOS)
    features = forward_all(Features(network), photos["train"][training], title="features of training photos")
    prototypes = fit_prototypes(features, np.array(manifest.splits["train"].targets)[training])
    model = CalibratedClassifier(network, temperature, prototypes).eval()
    probe = make_probe(model, model_config.input_size)
    traced = trace_methods(model, model_config.input_size)
    check_equal(model, traced, model_config.input_size)
    measured = measure(traced, manifest.splits["validation"].paths, model_config.input_size)

    figures = metrics.evaluate(softmax(test / temperature, axis=1), test_targets, labels)
    card = Card(
        schema_version=SCHEMA_VERSION,
        name=model_config.name,
        version=_version(run["mlflow_run_id"], network.read_size, config.export.precision),
        labels=labels,
        input_size=model_config.input_size,
        resize_rule=RESIZE_RULE,
        abstain_threshold=metrics.abstain_threshold(
            softmax(validation / temperature, axis=1), validation_targets, config.export.accepted_error_max
        ),
        temperature=temperature,
        metrics={
            name: Measured(**msgspec.structs.asdict(getattr(figures, name)))
            for name in ("accuracy", "log_loss", "ece", "roc_auc")
        },
        lineage=Lineage(
            git_commit=git_commit(),
            data_hash=manifest.sha256,
            mlflow_run_id=run["mlflow_run_id"],
            libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
        ),
        read_size=network.read_size,
        precision=config.export.precision,
        unfamiliar_above=float(
            np.quantile([photo["feature_distance"] for photo in measured], 1 - config.export.unfamiliar_share)
        ),
        reference=reference.make_reference(measured, len(labels)),
    )
    torchscript.save(place.MODEL, traced, card, probe)
    _track(config, run["mlflow_run_id"], card, validation, validation_targets)


def _version(run_id: str, read_size: int | None, precision: str) -> str:
    """Day of the export, training run and what was chosen at the export: the side read, another precision."""
    enlarged = f"-{read_size}px" if read_size else ""
    leaner = "" if precision == "fp32" else f"-{precision}"
    return f"{dt.datetime.now(dt.UTC):%Y.%m.%d}-{run_id[:8]}{enlarged}{leaner}"


def fit_temperature(log_probabilities: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> float:
    """The temperature that minimises the log loss on validation (Guo et al. 2017, section 4.2)."""

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(log_probabilities / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(targets)), targets].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.2), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def fit_prototypes(features: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> torch.Tensor:
    """`f32[P,D]` of length one: the directions around which each class's features lie.

    A photo of anything else lies away from all of them. Features collapse in training, so that a Gaussian
    a class (Lee et al. 2018) told little; neighbours by angle tell much (Sun et al. 2022), and the centres
    of k-means stand for them at a hundredth of their size.

    Args:
        features: `f32[N,D]` of training photos.
        targets: `i[N]`.
    """
    directions = functional.normalize(torch.from_numpy(features)).numpy()
    centres = []
    for number in np.unique(targets):
        own = directions[targets == number]
        kmeans = KMeans(min(_PROTOTYPES, len(own)), n_init=1, random_state=0)
        centres.append(kmeans.fit(own).cluster_centers_)
    return functional.normalize(torch.from_numpy(np.concatenate(centres).astype(np.float32)))


def trace_methods(model: CalibratedClassifier, size: int) -> torch.jit.ScriptModule:
    """Trace the artefact's methods on `u8[1,3,S,S]`; the batch axis stays free.

    `explain` is left out where the pooled feature maps are not the features: then no map adds up to the
    logit.
    """
    images = torch.zeros((1, 3, size, size), dtype=torch.uint8)
    methods = {"forward": images, artifact.OBSERVE: images}
    with torchscript.deprecation_silenced(), torch.no_grad():
        warnings.filterwarnings("ignore", category=TracerWarning)
        maps = feature_maps(model.network, images)
        pooled = maps.mean((2, 3)) if maps.ndim == 4 else maps
        features = model.network.features(images)
        if pooled.shape == features.shape and torch.allclose(pooled, features, atol=_TRACE_TOLERANCE):
            methods[artifact.EXPLAIN] = images
        traced: torch.jit.ScriptModule = torch.jit.trace_module(model, methods)  # type: ignore[no-untyped-call]
    return traced


def measure(traced: torch.jit.ScriptModule, photos: list[Path], size: int) -> list[dict[str, float]]:
    """What `serving.contract.reference` measures of each photo, as the service will."""
    fused = torchscript.fuse(traced)

    def one(path: Path) -> dict[str, float]:
        image = preprocess(path.read_bytes(), size)
        with torch.inference_mode():
            probabilities, distance = fused.observe(torch.from_numpy(image.pixels)[None])
        return reference.measure(
            image.pixels, image.width, image.height, probabilities[0].tolist(), float(distance)
        )

    return map_on_cores(one, photos, "drift reference", initializer=torchscript.one_thread)


def make_probe(model: torch.nn.Module, size: int) -> list[artifact.ProbeImage]:
    """The probe's pictures with what the eager model says of them."""
    probe = []
    for name, data in probe_images().items():
        pixels = torch.from_numpy(preprocess(data, size).pixels)[None]  # [1,3,S,S]
        with torch.inference_mode():
            probabilities = model(pixels)[0].tolist()
        probe.append(artifact.ProbeImage(name, data, probabilities))
    return probe


def check_equal(eager: torch.nn.Module, traced: torch.nn.Module, size: int) -> None:
    """Hold the traced module to the eager one, on a batch size it was not traced with.

    Raises:
        PipelineError: they differ by more than 1e-4 in a probability.
    """
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = eager(images)
        observed, _ = cast("Any", traced).observe(images)
        answers = (traced(images), observed)
        difference = max(float((expected - answer).abs().max()) for answer in answers)
    if not difference <= _TRACE_TOLERANCE:
        raise PipelineError(
            f"The TorchScript model differs from the eager one by {difference:.2e} in a probability "
            f"(allowed {_TRACE_TOLERANCE}): the backbone does something that tracing cannot follow."
        )


def _read_checkpoint() -> tuple[dict[str, Any], dict[str, Any]]:
    if not place.CHECKPOINT.exists() or not place.RUN.exists():
        raise PipelineError(f"There is no checkpoint at {place.CHECKPOINT}. Train first: make train.")
    try:
        checkpoint = torch.load(place.CHECKPOINT, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds on a damaged file
        raise PipelineError(f"{place.CHECKPOINT} is damaged. Train again: make train.") from error
    if checkpoint.get("schema") != CHECKPOINT_SCHEMA:
        raise PipelineError(f"{place.CHECKPOINT} is of another version. Train again: make train.")
    return json.loads(place.RUN.read_text()), checkpoint


def _read_predictions(split: str) -> npt.NDArray[np.float64]:
    """Log probabilities `f64[N,K]` that the training wrote for one split, in the manifest's order."""
    table = pd.read_csv(place.TRAIN_REPORT / f"{split}_log_probabilities.csv")
    return table.drop(columns="target").to_numpy(np.float64)


def _every(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """`count` rows, evenly spaced, so that every export takes the same."""
    return rows[:: max(1, len(rows) // count)][:count]


def _track(
    config: TrainConfig,
    run_id: str,
    card: Card,
    validation: npt.NDArray[np.float64],
    targets: npt.NDArray[np.int64],
) -> None:
    before = metrics.expected_calibration_error(softmax(validation, axis=1), targets)
    after = metrics.expected_calibration_error(softmax(validation / card.temperature, axis=1), targets)
    tracker = Tracker(config.tracking, run_id)
    tracker.log_metrics({"temperature": card.temperature, "validation_ece": after})
    sha = files.sha256(place.MODEL)
    version = tracker.register(card.name, Path(place.MODEL), {"sha256": sha, "card_version": card.version})
    tracker.set_tags({"model.sha256": sha, "model.version": card.version})
    tracker.finish()
    accuracy = card.metrics["accuracy"]
    print(
        f"temperature {card.temperature:.3f}: validation ECE {before:.2%} -> {after:.2%}\n"
        f"test accuracy {accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}], n={accuracy.n}\n"
        f"{place.MODEL}: {place.MODEL.stat().st_size / 1e6:.1f} MB, sha256 {sha[:12]}…, version "
        f"{card.version}\nregistered in MLflow as {card.name} version {version}, "
        f"alias @{config.tracking.alias}"
    )
