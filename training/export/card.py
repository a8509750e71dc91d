"""The export's measurements in, the artefact's card out."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec
import numpy as np
from scipy.special import softmax

from common.lineage import git_commit, libraries
from evaluation.figures import metrics
from serving.contract import reference
from serving.contract.card import SCHEMA_VERSION, Card, Lineage, Measured
from serving.contract.preprocess import RESIZE_RULE
from training.config import ExportConfig
from training.fit.checkpoint import Checkpoint, Run
from training.fit.predictions import Predictions


def make_card(
    config: ExportConfig,
    trained: Checkpoint,
    run: Run,
    read_size: int | None,
    temperature: float,
    validation: Predictions,
    measured: list[dict[str, float]],
    represented: reference.Reference,
    precision: Literal["fp32", "int8"],
) -> Card:
    """Make the card.

    Args:
        config: The export's configuration.
        trained: The exported checkpoint.
        run: The run that trained it.
        read_size: Side to which the network enlarges its input, in pixels; None leaves it as it is.
        temperature: Of the logits.
        validation: The exported network's predictions.
        measured: Drift quantities of each validation photo, measured as in the service.
        represented: What drift is measured against.
        precision: Of the exported network.
    """
    probabilities = softmax(validation.log_probabilities / temperature, axis=1)
    abstain = metrics.abstain_threshold(probabilities, validation.targets, config.accepted_error_max)
    figures = metrics.evaluate(probabilities, validation.targets, trained.labels)
    distances = [photo["feature_distance"] for photo in measured]
    return Card(
        schema_version=SCHEMA_VERSION,
        name=trained.model.name,
        version=_version(run.mlflow_run_id, read_size, precision),
        labels=trained.labels,
        input_size=trained.model.input_size,
        resize_rule=RESIZE_RULE,
        abstain_threshold=abstain.threshold,
        abstain_bound=abstain.bound,
        temperature=temperature,
        metrics=msgspec.convert(figures.summary(), dict[str, Measured], from_attributes=True),
        lineage=Lineage(
            git_commit=git_commit(),
            data_hash=run.data_sha256,
            mlflow_run_id=run.mlflow_run_id,
            libraries=libraries(),
        ),
        measured_on="validation",
        read_size=read_size,
        precision=precision,
        unfamiliar_above=float(np.quantile(distances, 1 - config.unfamiliar_share)),
        reference=represented,
    )


def _version(run_id: str, read_size: int | None, precision: str) -> str:
    """Date of the export, training run, and what the export changed: input size, precision."""
    enlarged = f"-{read_size}px" if read_size else ""
    quantised = "" if precision == "fp32" else f"-onnx-{precision}"
    return f"{dt.datetime.now(dt.UTC):%Y.%m.%d}-{run_id[:8]}{enlarged}{quantised}"
