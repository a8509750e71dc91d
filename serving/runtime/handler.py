"""Encoded photos in, one artefact's answers out: preprocess, inference, postprocess. A bad item fails alone.

It knows neither HTTP nor queues. `serving.engine.workers` runs its stages one by one and times them,
`evaluation.artefact.offline` runs it over a whole split, and `serving.torchserve` runs it in TorchServe. The
names of its methods are those of TorchServe's handlers, which the field knows; that server is no longer
developed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import artifact
from serving.contract.answer import Answer, Refusal
from serving.contract.errors import ArtifactError, ImageError, NotReady
from serving.contract.preprocess import DecodedImage, Limits, inspect, preprocess
from serving.contract.structure.model import Structure
from serving.runtime.context import Context, LocalContext
from serving.runtime.item import encoded
from serving.runtime.load import load
from serving.runtime.network import Network, Pixels


@dataclass(slots=True)
class Batch:
    """What flows from `preprocess` through `inference` to `postprocess`."""

    images: list[DecodedImage | ImageError]
    """One entry per item, in order: its pixels, or the error that replaces them."""
    inputs: Pixels
    """`u8[N,3,S,S]` of the good items only, in order."""
    probabilities: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """`f32[N,K]` after inference."""
    distances: npt.NDArray[np.float32] | None = None
    """`f32[N]` after inference: feature distance from the training photos, if the artefact reports it."""


class ImageClassifierHandler:
    """Run one artefact on encoded photos. Thread-safe once initialised."""

    def __init__(self, limits: Limits | None = None, *, device: str = "cpu", max_batch: int = 1) -> None:
        """Prepare to serve.

        Args:
            limits: The limits beyond which an image is refused.
            device: Where the network runs: `cpu`, `cuda` or `cuda:N`.
            max_batch: Largest number of photos in one pass of the network. Passes have fixed sizes (powers of
                two up to this), each compiled before the first request; the last pass is padded.
        """
        self.limits = limits or Limits()
        self._device = device
        self._sizes = sorted({min(2**k, max_batch) for k in range(max_batch.bit_length() + 1)})
        self._artifact: artifact.Artifact | None = None
        self._network: Network | None = None

    @property
    def artifact(self) -> artifact.Artifact:
        """The loaded artefact.

        Raises:
            NotReady: `initialize` has not succeeded.
        """
        if self._artifact is None:
            raise NotReady("No model is loaded.")
        return self._artifact

    def initialize(self, context: Context) -> None:
        """Load the artefact into its runtime, warm it, and replay its probe.

        Raises:
            ArtifactError: the file is missing or damaged, or does not reproduce its probe.
        """
        path = Path(context.system_properties["model_dir"], context.manifest["model"]["serializedFile"])
        self._network, self._artifact = load(path, self._device, self._sizes)
        try:
            self._replay_probe()
        except ArtifactError:
            self._network = self._artifact = None
            raise

    def inspect(self, body: bytes) -> Structure:
        """What the image's structure says about its cost, before anything is decoded.

        Raises:
            ImageError: the image is not accepted.
        """
        return inspect(body, self.artifact.card.input_size, self.limits)

    def preprocess(self, data: Sequence[object]) -> Batch:
        """Decode each item; the error of a bad one takes its place.

        Args:
            data: Items as `encoded` takes them, of which nothing is trusted.
        """
        size = self.artifact.card.input_size
        images = [self._decode(item, size) for item in data]
        good = [image.pixels for image in images if isinstance(image, DecodedImage)]
        stacked = np.stack(good) if good else np.empty((0, 3, size, size), np.uint8)
        return Batch(images, stacked)

    def inference(self, inputs: Batch) -> Batch:
        """Run the network on the good items: `u8[N,3,S,S]` to `f32[N,K]`."""
        loaded = self._loaded()
        rows: list[npt.NDArray[np.float32]] = []
        distances: list[npt.NDArray[np.float32]] = []
        waiting = inputs.inputs
        while len(waiting):
            size = next((s for s in self._sizes if s >= len(waiting)), self._sizes[-1])
            part, waiting = waiting[:size], waiting[size:]
            missing = np.zeros((size - len(part), *part.shape[1:]), np.uint8)
            whole = np.concatenate([part, missing]) if len(missing) else part  # [size,3,S,S]
            probabilities, far = loaded.run(whole)
            rows.append(probabilities[: len(part)])
            if far is not None:
                distances.append(far[: len(part)])
        if not rows:
            rows.append(np.empty((0, len(self.artifact.card.labels)), np.float32))
        far = np.concatenate(distances) if distances else None
        return Batch(inputs.images, inputs.inputs, np.concatenate(rows), far)

    def explain(self, image: DecodedImage) -> dict[str, npt.NDArray[np.float32]] | None:
        """Activation map `f32[h,w]` per label: above 0 where the photo supports it, below 0 where not.

        It is independent of `inference`, and may be slower. None if the artefact has no such output.
        """
        maps = self._loaded().explain(image.pixels[None])  # [1,K,h,w]
        if maps is None:
            return None
        return dict(zip(self.artifact.card.labels, maps[0], strict=True))

    def postprocess(self, outputs: Batch) -> list[Answer | Refusal]:
        """One answer or refusal for each item, in order."""
        distances: Iterable[float | None] = (
            map(float, outputs.distances) if outputs.distances is not None else itertools.repeat(None)
        )
        rows = zip(outputs.probabilities, distances, strict=False)
        return [
            Refusal(error=image.code, detail=image.detail)
            if isinstance(image, ImageError)
            else self._answer(*next(rows))
            for image in outputs.images
        ]

    def handle(self, data: Sequence[object], context: Context | None = None) -> list[Answer | Refusal]:
        """All stages on a batch; returns one entry per item."""
        del context  # part of the contract; `initialize` sets all state
        return self.postprocess(self.inference(self.preprocess(data)))

    def describe_handle(self) -> dict[str, Any]:
        """Name, version, labels and input of the served model."""
        card = self.artifact.card
        return {
            "name": card.name,
            "version": card.version,
            "sha256": self.artifact.sha256,
            "labels": card.labels,
            "input": f"u8[N,3,{card.input_size},{card.input_size}], {card.resize_rule}",
            "runtime": self._loaded().describe(),
        }

    def _decode(self, item: object, size: int) -> DecodedImage | ImageError:
        known = item.get("known") if isinstance(item, dict) else None
        if isinstance(known, (DecodedImage, ImageError)):
            return known
        try:
            structure = known if isinstance(known, Structure) else None
            return preprocess(encoded(item), size, self.limits, structure)
        except ImageError as error:
            return error

    def _answer(self, row: npt.NDArray[np.float32], distance: float | None) -> Answer:
        card = self.artifact.card
        limit = card.unfamiliar_above
        best = int(row.argmax())
        probability = float(row[best])
        return Answer(
            prediction=card.labels[best],
            probability=probability,
            probabilities={label: float(p) for label, p in zip(card.labels, row, strict=True)},
            uncertain=probability < card.abstain_threshold,
            unfamiliar=None if distance is None or limit is None else distance > limit,
            feature_distance=distance,
        )

    def _loaded(self) -> Network:
        if self._network is None:
            raise NotReady("No model is loaded.")
        return self._network

    def _replay_probe(self) -> None:
        allowed = artifact.PROBE_TOLERANCE[self.artifact.card.precision]
        for image in self.artifact.probe:
            answer = self.handle([{"body": image.data}])[0]
            if isinstance(answer, Refusal):
                raise ArtifactError(
                    f"The probe image {image.name!r} is refused ({answer.detail}): an image library "
                    "differs from the one at the export. Install the versions of the lock file."
                )
            got = list(answer.probabilities.values())
            off = max((abs(g - e) for g, e in zip(got, image.probabilities, strict=False)), default=math.inf)
            if len(got) != len(image.probabilities) or not off <= allowed:
                raise ArtifactError(
                    f"The model does not reproduce its probe: image {image.name!r} gives {got}, the "
                    f"trainer had {image.probabilities} (difference {off:.4f}, allowed "
                    f"{allowed}). The file is damaged, or the preprocessing differs. Export it "
                    "again with this version."
                )


def load_handler(path: Path) -> ImageClassifierHandler:
    """A handler of the artefact at `path`, verified and warm.

    Raises:
        ArtifactError: as for `ImageClassifierHandler.initialize`.
    """
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(path))
    return handler
