"""The artefact's card, written from what the export has measured."""

from __future__ import annotations

import datetime as dt

import msgspec
import numpy as np
from scipy.special import softmax

from evaluation.figures import metrics
from serving.contract import reference
from serving.contract.card import SCHEMA_VERSION, Card, Lineage, Measured
from serving.contract.preprocess import RESIZE_RULE
from training.config import ExportConfig
from training.fit.checkpoint import Checkpoint, Run
from training.fit.predictions import Predictions
from training.lineage import git_commit, libraries


def make_card(
    config: ExportConfig,
    trained: Checkpoint,
    run: Run,
    read_size: int | None,
    temperature: float,
    predictions: dict[str, Predictions],
    measured: list[dict[str, float]],
) -> Card:
    """What the artefact says of itself.

    Args:
        config: What was chosen at the export.
        trained: The checkpoint that is exported.
        run: Where it comes from.
        read_size: Side to which the network enlarges a photo, in pixels; None leaves it as it comes.
        temperature: Of its logits.
        predictions: Of the network that is exported, on validation and test.
        measured: For each validation photo, what the service will measure of it.
    """
    probabilities = {
        split: softmax(found.log_probabilities / temperature, axis=1) for split, found in predictions.items()
    }
    figures = metrics.evaluate(probabilities["test"], predictions["test"].targets, trained.labels)
    distances = [photo["feature_distance"] for photo in measured]
    return Card(
        schema_version=SCHEMA_VERSION,
        name=trained.model.name,
        version=_version(run.mlflow_run_id, read_size, config.precision),
        labels=trained.labels,
        input_size=trained.model.input_size,
        resize_rule=RESIZE_RULE,
        abstain_threshold=metrics.abstain_threshold(
            probabilities["validation"], predictions["validation"].targets, config.accepted_error_max
        ),
        temperature=temperature,
        metrics={
            name: Measured(**msgspec.structs.asdict(getattr(figures, name)))
            for name in ("accuracy", "log_loss", "ece", "roc_auc")
        },
        lineage=Lineage(
            git_commit=git_commit(),
            data_hash=run.data_sha256,
            mlflow_run_id=run.mlflow_run_id,
            libraries=libraries(),
        ),
        read_size=read_size,
        precision=config.precision,
        unfamiliar_above=float(np.quantile(distances, 1 - config.unfamiliar_share)),
        reference=reference.make_reference(measured, len(trained.labels)),
    )


def _version(run_id: str, read_size: int | None, precision: str) -> str:
    """Day of the export, training run and what was chosen at the export: the side read, another precision."""
    enlarged = f"-{read_size}px" if read_size else ""
    leaner = "" if precision == "fp32" else f"-{precision}"
    return f"{dt.datetime.now(dt.UTC):%Y.%m.%d}-{run_id[:8]}{enlarged}{leaner}"
