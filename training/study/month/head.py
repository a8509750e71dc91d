"""The linear head on the frozen features: its answers, and its retraining from where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from evaluation.figures.intervals import Floats, Ints

_PENALTY: Final = 100.0
"""Of a squared change, against a sum of losses in nats; on features of about the same spread."""
_FLOOR: Final = 0.1  # of the mean variance, as in training.fit.head
_MOST_STEPS: Final = 60


@dataclass(frozen=True, slots=True)
class Head:
    """A softmax over linear functions of the features."""

    weight: Floats
    """`f[K,D]`."""
    bias: Floats
    """`f[K]`."""

    def logits(self, features: Floats) -> Floats:
        """Features `f[…,D]` to logits `f[…,K]`."""
        found: Floats = features @ self.weight.T + self.bias
        return found

    def probabilities(self, features: Floats) -> Floats:
        """Features `f[…,D]` to probabilities `f[…,K]`."""
        found: Floats = softmax(self.logits(features), axis=-1)
        return found

    def divided(self, temperature: float) -> Head:
        """The same head with its logits divided by `temperature`."""
        return Head(self.weight / temperature, self.bias / temperature)

    def retrained(self, features: npt.NDArray[np.float32], targets: Ints, weights: Floats) -> Head:
        """A head that answers these photos better, and differs from this one no more than that takes.

        It minimises the weighted log loss plus an L2 penalty on the change. A head from the start would
        forget what fine-tuning taught this one of photos that are not among them.

        Args:
            features: `f32[N,D]`.
            targets: `i[N]`.
            weights: `f[N]`, what each photo counts.
        """
        scale = np.sqrt(features.var(0) + _FLOOR * features.var(0).mean())
        rows, now = features / scale, self.logits(features)
        wanted = np.eye(len(self.bias))[targets]  # [N,K]
        shape = len(self.bias), features.shape[1] + 1

        def loss(flat: Floats) -> tuple[float, Floats]:
            change = flat.reshape(shape)
            logs = log_softmax(now + rows @ change[:, :-1].T.astype(np.float32) + change[:, -1], axis=1)
            slope = (weights[:, None] * (np.exp(logs) - wanted)).astype(np.float32)  # [N,K]
            value = _PENALTY / 2 * (change**2).sum() - (weights[:, None] * wanted * logs).sum()
            slopes = np.column_stack([slope.T @ rows, slope.sum(0)]) + _PENALTY * change
            return float(value), slopes.ravel().astype(float)

        start, options = np.zeros(shape).ravel(), {"maxiter": _MOST_STEPS}
        change = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
        return Head(self.weight + change[:, :-1] / scale, self.bias + change[:, -1])
