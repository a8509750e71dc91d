"""A trained network in, `reports/train` out: predictions, curves and pictures, also logged to MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from common import files
from evaluation.figures import metrics, pictures
from training.fit import predictions
from training.fit.job import Job
from training.fit.predictions import Predictions
from training.network.build import Classifier
from training.network.predict import device_for, predict_all
from training.tracking import Tracker

_PHASES: Final = ("head", "finetune")


def write_report(job: Job, network: Classifier, tracker: Tracker) -> None:
    """Predict validation, draw, and replace the earlier report; test is for the release."""
    with files.atomic_folder(job.place.train_report) as folder:
        _report_validation(job, network, tracker, folder)
        history = tracker.history(("_loss", "_accuracy"))
        curves_table(history).to_csv(folder / "curves.csv", index=False)
        figure = pictures.curves(history, f"{job.config.model.backbone}: loss and accuracy")
        pictures.save(figure, folder / "curves.png")
        tracker.log_figure(figure, "curves.png")


def curves_table(history: dict[str, list[tuple[int, float]]]) -> pd.DataFrame:
    """One row per validated step, the head's single row first: step, phase, losses and accuracies.

    Args:
        history: `(step, value)` by name, as `{phase}_{train,val}_{loss,accuracy}`.
    """
    tables, offset = [pd.DataFrame(columns=["step"])], 0  # the history of a lost run is lost
    for phase in _PHASES:
        series = {
            name.removeprefix(f"{phase}_"): dict(points)
            for name, points in history.items()
            if name.startswith((f"{phase}_train_", f"{phase}_val_"))
        }
        table = (
            pd.DataFrame(series).dropna().rename_axis("step").reset_index()
        )  # a pass may be several epochs
        if len(table):
            table["step"] += offset + 1
            offset = int(table["step"].max())
            tables.append(table.assign(phase=phase))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _report_validation(job: Job, network: Classifier, tracker: Tracker, folder: Path) -> None:
    split = "validation"
    photos, labels = job.manifest.splits[split], job.manifest.labels
    targets = np.array(photos.targets)
    device = device_for(job.config.trainer.accelerator)
    logits = predict_all(network, job.photos[split], title=f"{split} predictions", device=device)
    log_probabilities = log_softmax(logits, axis=1)
    predictions.write(folder, split, Predictions(log_probabilities, targets), labels)
    probabilities = np.exp(log_probabilities)
    accuracy = metrics.accuracy(probabilities, targets)
    tracker.log_metrics(
        {f"{split}_accuracy": accuracy.value, f"{split}_log_loss": metrics.log_loss(probabilities, targets)}
    )
    print(f"{split}: accuracy {accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}], n={accuracy.n}")
    confusion = metrics.confusion(probabilities, targets)
    for name, figure in {
        "confusion_matrix": pictures.confusion_matrix(confusion, labels, f"{split} split"),
        "worst_mistakes": pictures.worst_mistakes(photos.paths, probabilities, targets, labels),
    }.items():
        pictures.save(figure, folder / f"{split}_{name}.png")
        tracker.log_figure(figure, f"{split}/{name}.png")
