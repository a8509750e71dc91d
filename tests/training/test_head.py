"""The network's head computes what scikit-learn fitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from common.errors import PipelineError
from training.fit.head import fit_head


def blobs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows around one point per class, on axes of very different scale."""
    random = np.random.default_rng(classes)
    targets = np.arange(60 * classes) % classes
    rows = random.normal(size=(len(targets), 5)) + 2 * np.eye(5)[targets]
    return (rows * [1, 10, 100, 0.1, 1]).astype(np.float32), targets


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_head_equals_the_regression_on_scaled_features(classes: int):
    """The scaling is folded into the weights; two classes have one row each, of opposite sign."""
    rows, targets = blobs(classes)
    weight, bias = fit_head(rows, targets, np.ones(classes), 0.1)
    assert weight.shape == (classes, 5)
    centre, spread = rows.mean(0), np.sqrt(rows.var(0) + 0.1 * rows.var(0).mean())
    regression = LogisticRegression(C=0.1, max_iter=1000).fit((rows - centre) / spread, targets)
    expected = regression.predict_proba((rows - centre) / spread)
    logits = torch.from_numpy(rows).double() @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    assert torch.softmax(logits, 1).numpy() == pytest.approx(expected, abs=1e-3)
    assert weight.sum(0) == pytest.approx(0, abs=1e-6)


def test_a_feature_that_never_changes_has_no_weight():
    """Such as a dead channel of a backbone: no division by its deviation of zero."""
    rows, targets = blobs(2)
    rows[:, 3] = 7
    weight, bias = fit_head(rows, targets, np.ones(2), 0.1)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert weight[:, 3] == pytest.approx(0)


def test_a_class_without_photos_is_reported():
    """Reviewed labels may leave such a class."""
    rows, targets = blobs(2)
    with pytest.raises(PipelineError, match="no training photo"):
        fit_head(rows, targets, np.ones(3), 0.1)


def test_a_rare_class_counts_by_its_weight():
    """Of 10 photos among 500 few are found as they are, most when both classes weigh alike."""
    random = np.random.default_rng(1)
    targets = np.array([0] * 490 + [1] * 10)
    rows = (random.normal(size=(500, 3)) + targets[:, None]).astype(np.float32)

    def recall(weights: np.ndarray) -> float:
        weight, bias = fit_head(rows, targets, weights, 1.0)
        return float(((rows @ weight.T + bias).argmax(1)[targets == 1] == 1).mean())

    assert recall(np.ones(2)) < 0.5
    assert recall(np.array([1.0, 49.0])) >= 0.7
