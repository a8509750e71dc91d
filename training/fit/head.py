"""First phase: a linear head on the frozen backbone's features, by scikit-learn's logistic regression.

It is fitted on features scaled to about the same spread, so one penalty suits every backbone. The scaling is
then folded into the weights and biases of the network's `head`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from common.errors import PipelineError
from evaluation.figures import metrics
from training.config import HeadConfig
from training.network.build import Classifier, Features
from training.network.predict import predict_all
from training.photos.decoded import DecodedPhotos

_MOST_STEPS: Final = 1000
_FLOOR: Final = 0.1  # of the mean variance; measured with the penalty of configs/train.yaml


@dataclass(frozen=True, slots=True)
class Score:
    """The head's loss and accuracy on one split."""

    loss: float
    """Mean cross-entropy, in nats."""
    calibrated_loss: float
    """The same at the best temperature."""
    accuracy: float


def train_head(
    config: HeadConfig,
    network: Classifier,
    photos: DecodedPhotos,
    class_weights: npt.NDArray[np.float64],
    device: torch.device | None = None,
) -> dict[str, Score]:
    """Fit the head of `network` in place; return its scores on train and validation.

    Args:
        config: The penalty.
        network: Its backbone is left as it is.
        photos: Those of all splits.
        class_weights: `f64[K]`, what a photo of each class weighs in the loss.
        device: Where the features are computed; by default where the network is.

    Raises:
        PipelineError: a class has no training photo.
    """
    splits = photos.manifest.splits
    features = {
        split: predict_all(Features(network), photos[split], title=f"{split} features", device=device)
        for split in ("train", "validation")
    }
    weight, bias = fit_head(
        features["train"],
        np.array(splits["train"].targets),
        class_weights,
        config.inverse_penalty,
    )
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))
    return {split: _score(network, rows, splits[split].targets) for split, rows in features.items()}


def fit_head(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    class_weights: npt.NDArray[np.float64],
    inverse_penalty: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights `f64[K,D]` and biases `f64[K]` of a softmax over the classes.

    Args:
        features: `f32[N,D]`.
        targets: `i64[N]`, class numbers.
        class_weights: `f64[K]`, what a row of each class weighs.
        inverse_penalty: scikit-learn's `C`.

    Raises:
        PipelineError: a class has no row.
    """
    classes = len(class_weights)
    if len(np.unique(targets)) < classes:
        raise PipelineError(
            "A class has no training photo; configs/labels.csv may exclude them all. Add photos: make data."
        )
    rows = features.astype(np.float64)  # in single precision the optimiser stops on rounding noise
    mean, variance = rows.mean(0), rows.var(0)
    # The floor keeps a nearly constant feature from a weight so large that it harms fine-tuning.
    scale = np.sqrt(variance + _FLOOR * variance.mean())
    regression = LogisticRegression(
        C=inverse_penalty, max_iter=_MOST_STEPS, class_weight=dict(enumerate(class_weights))
    )
    fitted = regression.fit((rows - mean) / scale, targets)
    weight = fitted.coef_ / scale
    bias = fitted.intercept_ - weight @ mean
    if classes == 2:  # scikit-learn keeps one row, the log odds: half for each class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _score(network: Classifier, features: npt.NDArray[np.float32], targets: list[int]) -> Score:
    classes = torch.tensor(targets)
    with torch.inference_mode():
        logits = network.head(torch.from_numpy(features))
        loss = functional.cross_entropy(logits, classes)
    calibrated = metrics.calibrated_loss(logits.numpy().astype(np.float64), classes.numpy())
    return Score(float(loss), calibrated, float((logits.argmax(1) == classes).double().mean()))
