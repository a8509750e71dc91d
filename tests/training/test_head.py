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
    weight, bias = fit_head(rows, targets, classes, 0.1)
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
    weight, bias = fit_head(rows, targets, 2, 0.1)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert weight[:, 3] == pytest.approx(0)


def test_a_class_without_photos_is_reported():
    """Reviewed labels may leave such a class."""
    rows, targets = blobs(2)
    with pytest.raises(PipelineError, match="no training photo"):
        fit_head(rows, targets, 3, 0.1)
