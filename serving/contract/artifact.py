"""The model file: one archive with the network, its card and its probe. Reading these two needs no torch.

The network is `forward(u8[N,3,S,S]) -> f32[N,K]`: calibrated probabilities; normalisation and temperature are
in the graph. It may have two more methods:
- `observe(u8[N,3,S,S]) -> (f32[N,K], f32[N])`: the same probabilities, and how far the photo's
  features are from all that the model was trained on (0 the same direction, 1 at right angles);
- `explain(u8[N,3,S,S]) -> f32[N,K,h,w]`: each class's activation map (Zhou et al. 2016).

The probe is a handful of encoded images with the probabilities that the trainer's eager model gave
for them. Whoever loads an artefact for use replays the probe (`serving.runtime.handler`), so that a corrupt
file, a changed image library or a skewed preprocessing is found before the first request.
`serving.runtime.torchscript` loads and saves the network.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from serving.contract.card import SCHEMA_VERSION, Card
from serving.contract.errors import ArtifactError
from serving.contract.preprocess import RESIZE_RULE

PROBE_TOLERANCE: Final = {"fp32": 0.01, "int8": 0.05}
"""Largest absolute difference of probability between eager training code and this process, by precision.

Kernels for int8 round differently with VNNI and without: 0.025 was seen at a probability near one half.
"""

OBSERVE: Final = "observe"
EXPLAIN: Final = "explain"
CARD: Final = "card.json"
PROBE: Final = "probe.json"

T = TypeVar("T")
_EXTRA: Final = "/extra/"  # where torch.jit.save puts extra files, below the archive's own name


class ProbeImage(msgspec.Struct, frozen=True):
    """One encoded image and the probabilities the trainer's eager model gave for it."""

    name: str
    """File name, which says what the picture tries."""
    data: bytes
    """Encoded, as a caller would send it."""
    probabilities: list[float]
    """By class, of the eager model."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a model file says of itself."""

    card: Card
    probe: list[ProbeImage]
    sha256: str
    """Of the file's bytes."""


def read(path: Path) -> Artifact:
    """Card, probe and hash of the artefact at `path`.

    Raises:
        ArtifactError: no such file, damaged, without card or probe, of another schema, or made for another
            resize rule.
    """
    return parse(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of the model file.

    Raises:
        ArtifactError: no such file, or one that cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"There is no model at {path}. Make one with 'make train', fetch the released one with "
            "'git checkout models/release', or name another with MODEL=path."
        ) from error
    except OSError as error:
        raise ArtifactError(f"The model at {path} cannot be read: {error.strerror}.") from error


def parse(path: Path, data: bytes) -> Artifact:
    """Card, probe and hash of the artefact whose bytes are `data`; `path` is for the messages.

    Each member's CRC-32 is compared, which `torch.jit.load` does not do.

    Raises:
        ArtifactError: as `read`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
            extra = {
                name.partition(_EXTRA)[2]: archive.read(name)
                for name in archive.namelist()
                if _EXTRA in name and not damaged
            }
    except Exception as error:  # zipfile and zlib raise several kinds on bytes that were made to break them
        raise not_whole(path, len(data)) from error
    if damaged:
        raise not_whole(path, len(data))
    card = _decode(path, CARD, extra.get(CARD, b""), Card)
    probe = _decode(path, PROBE, extra.get(PROBE, b""), list[ProbeImage])
    _check(path, card, probe)
    return Artifact(card, probe, hashlib.sha256(data).hexdigest())


def not_whole(path: Path, size_bytes: int) -> ArtifactError:
    """The error for a file that is damaged or of another kind."""
    return ArtifactError(
        f"The model at {path} ({size_bytes} bytes) is not a whole TorchScript archive: "
        "it is damaged or of another kind. Export or fetch it again."
    )


def _decode(path: Path, member: str, content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ArtifactError(
            f"The model at {path} has no valid {member}: {error}. It was not written by this "
            "project's export, or by a version with another schema."
        ) from error


def _check(path: Path, card: Card, probe: list[ProbeImage]) -> None:
    if card.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"The model at {path} has card schema {card.schema_version}; this version reads "
            f"{SCHEMA_VERSION}. Export it again."
        )
    if card.resize_rule != RESIZE_RULE:
        raise ArtifactError(
            f"The model at {path} expects resize rule {card.resize_rule!r}; this version applies "
            f"{RESIZE_RULE!r}. Train and export it again."
        )
    if not probe:
        raise ArtifactError(f"The model at {path} has an empty probe, so nothing proves it.")
