"""Logits in, calibrated probabilities out: the network that applies the temperature."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.network.build import Classifier
from training.network.quantise import feature_maps


class CalibratedClassifier(torch.nn.Module):
    """The artefact's methods (see `serving.contract.artifact`) over a trained network."""

    prototypes: torch.Tensor

    def __init__(self, network: Classifier, temperature: float, prototypes: torch.Tensor) -> None:
        """`prototypes` is `f32[P,D]`, unit vectors: directions of the training photos' features."""
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
        """`u8[N,3,S,S]` to class activation maps `f32[N,K,h,w]` (Zhou et al. 2016), class mean subtracted."""
        maps = feature_maps(self.network, images)
        activation = torch.einsum("kd,ndhw->nkhw", self.network.head.weight, maps)
        return activation - activation.mean(1, keepdim=True)
