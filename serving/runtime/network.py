"""A loaded network, whichever runtime it is for: the protocol between the handler and a runtime."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Network(Protocol):
    """A network in memory, warm. Threads may call `run` and `explain` at once; a pass takes one core."""

    def run(self, images: Pixels) -> tuple[Floats, Floats | None]:
        """`u8[N,3,S,S]` to probabilities `f32[N,K]` and, if the artefact has them, distances `f32[N]`."""

    def explain(self, images: Pixels) -> Floats | None:
        """`u8[N,3,S,S]` to activation maps `f32[N,K,h,w]`; None if the artefact has none."""

    def describe(self) -> str:
        """The runtime, its version and the device."""
