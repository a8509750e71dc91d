"""Logits in, calibrated probabilities out: the network that applies the temperature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from training.network.build import Classifier
from training.network.maps import feature_maps


class CalibratedClassifier(torch.nn.Module):
    """The artefact's methods (see `serving.contract.artifact`) over a trained network."""

    temperature: torch.Tensor
    prototypes: torch.Tensor

    def __init__(self, network: Classifier, temperature: float, prototypes: torch.Tensor) -> None:
        """`prototypes` is `f32[P,D]`, unit vectors: directions of the training photos' features."""
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self.register_buffer("prototypes", prototypes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to `f32[N,K]`, rows summing to one."""
        return torch.softmax(self.network(images) / self.temperature, dim=1)

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """`forward` for NumPy, without gradients."""
        with torch.inference_mode():
            probabilities: npt.NDArray[np.float32] = self(torch.from_numpy(images)).numpy()
        return probabilities

    def observe(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`u8[N,3,S,S]` to the probabilities `f32[N,K]` and the features' distance `f32[N]`."""
        return self.judge(self.network.features(images))

    def explain(self, images: torch.Tensor) -> torch.Tensor:
        """`u8[N,3,S,S]` to class activation maps `f32[N,K,h,w]` (Zhou et al. 2016), class mean subtracted."""
        return self.activate(feature_maps(self.network, images))

    def judge(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `f32[N,D]` to the probabilities `f32[N,K]` and the distance `f32[N]`."""
        distance = 1 - (functional.normalize(features) @ self.prototypes.T).amax(1)
        return torch.softmax(self.network.head(features) / self.temperature, dim=1), distance

    def activate(self, maps: torch.Tensor) -> torch.Tensor:
        """Feature maps `f32[N,D,h,w]` to class activation maps `f32[N,K,h,w]`."""
        activation = torch.einsum("kd,ndhw->nkhw", self.network.head.weight, maps)
        return activation - activation.mean(1, keepdim=True)
