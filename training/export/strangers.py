"""Prototypes of the training photos: a photo whose features are far from all of them is unfamiliar."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans
from torch.nn import functional

from training.network.build import Classifier, Features
from training.network.predict import predict_all
from training.photos.decoded import DecodedPhotos

_PROTOTYPES: Final = 64  # per class
_PHOTOS: Final = 4096  # of the training split


def evenly_spaced(total: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` evenly spaced numbers below `total`, the same for every export."""
    return np.arange(total)[:: max(1, total // count)][:count]


def find_prototypes(network: Classifier, photos: DecodedPhotos) -> torch.Tensor:
    """`f32[P,D]`: the prototypes of the training split."""
    targets = np.array(photos.manifest.splits["train"].targets)
    chosen = evenly_spaced(len(targets), _PHOTOS)
    features = predict_all(
        Features(network), photos["train"], title="features of training photos", chosen=chosen.tolist()
    )
    return fit_prototypes(features, targets[chosen])


def fit_prototypes(features: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> torch.Tensor:
    """`f32[P,D]`, unit vectors: the directions around which the features of each class lie.

    A photo of anything else lies far from all of them. Features collapse in training, so one Gaussian per
    class (Lee et al. 2018) separates little; nearest neighbours by angle separate well (Sun et al. 2022),
    and k-means centres stand in for them at a hundredth of the size.

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
