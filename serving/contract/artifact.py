"""The model file: one file with the network, its card and its probe, in TorchScript or in ONNX.

Reading the card and the probe needs neither torch nor onnxruntime; `serving.runtime` loads the network.

The network takes `u8[N,3,S,S]` and gives calibrated probabilities `f32[N,K]`; normalisation and temperature
are inside. It may also give
- the cosine distance `f32[N]` of the photo's features to the nearest of the training photos' (0 for the same
  direction, 1 at right angles);
- activation maps `f32[N,K,h,w]`, one per class (Zhou et al. 2016).
In TorchScript these are the methods `forward`, `observe` (the probabilities and the distance) and `explain`;
in ONNX the input is `images` and the outputs are `probabilities`, `distance` and `activation`.

The probe is a handful of encoded images with the probabilities that the trainer's eager model gave for them.
Loading an artefact for use replays the probe (`serving.runtime.handler`), so a corrupt file, a changed image
library or skewed preprocessing is found before the first request.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from serving.contract import onnx
from serving.contract.card import SCHEMA_VERSION, Card
from serving.contract.errors import ArtifactError
from serving.contract.preprocess import RESIZE_RULE
from serving.contract.reference import Reference, StoredReference

PROBE_TOLERANCE: Final = {"fp32": 0.01, "int8": 0.05}
"""Largest absolute difference in probability between eager training code and this process, by precision.

Int8 kernels round differently with and without VNNI: 0.025 was seen at a probability near one half.
"""

OBSERVE: Final = "observe"
EXPLAIN: Final = "explain"
IMAGES: Final = "images"
PROBABILITIES: Final = "probabilities"
DISTANCE: Final = "distance"
ACTIVATION: Final = "activation"
CARD: Final = "card.json"
PROBE: Final = "probe.json"

T = TypeVar("T")
_ARCHIVE: Final = b"PK"  # of a zip, as torch.jit.save writes it
_EXTRA: Final = "/extra/"  # where it puts extra files, below the archive's own name


class ProbeImage(msgspec.Struct, frozen=True):
    """One encoded image and the probabilities that the trainer's eager model gave for it."""

    name: str
    """File name; it says what the image tests."""
    data: bytes
    """The encoded image, as a client would send it."""
    probabilities: list[float]
    """Per class, from the eager model."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Everything in a model file but the network."""

    card: Card
    probe: list[ProbeImage]
    sha256: str
    """SHA-256 of the file's bytes."""


def read(path: Path) -> Artifact:
    """Card, probe and hash of the artefact at `path`.

    Raises:
        ArtifactError: the file does not exist, is damaged, lacks card or probe, has another schema or was
            made for another resize rule.
    """
    return parse(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of the model file.

    Raises:
        ArtifactError: the file does not exist or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"There is no model at {path}. Train one with 'make train', restore the released one with "
            "'git checkout models/release', or name another with MODEL=path."
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"The model at {path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error


def parse(path: Path, data: bytes) -> Artifact:
    """Card, probe and hash of the artefact whose bytes are `data`; `path` is only for the messages.

    It checks every byte, which neither `torch.jit.load` nor onnxruntime does.

    Raises:
        ArtifactError: as for `read`.
    """
    try:
        extra = onnx.split(data)[1] if is_onnx(data) else _extra_files(data)
    except Exception as error:  # zipfile and zlib raise many kinds on malicious bytes
        raise not_whole(path, len(data)) from error
    card = _decode(path, CARD, extra.get(CARD, b""), Card)
    probe = _decode(path, PROBE, extra.get(PROBE, b""), list[ProbeImage])
    _check(path, card, probe)
    return Artifact(card, probe, hashlib.sha256(data).hexdigest())


def is_onnx(start: bytes) -> bool:
    """Whether a file that begins like this is taken for ONNX, which has no mark of its own."""
    return not start.startswith(_ARCHIVE)


def members(card: Card, probe: list[ProbeImage]) -> dict[str, bytes]:
    """What the model file holds besides the network, by name."""
    return {CARD: msgspec.json.encode(card), PROBE: msgspec.json.encode(probe)}


def _extra_files(data: bytes) -> dict[str, bytes]:
    """The extra files of a TorchScript archive, once the CRC-32 of each of its members is right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(damaged)
        return {
            name.partition(_EXTRA)[2]: archive.read(name) for name in archive.namelist() if _EXTRA in name
        }


def reference_path(model: Path) -> Path:
    """Where a drift reference of the artefact at `model` lies, if it has one next to it."""
    return model.with_suffix(".reference.json")


def read_reference(model: Path, loaded: Artifact) -> tuple[Reference | None, str]:
    """What drift of the artefact at `model` is measured against; why a file next to it is not used, if so.

    It is the reference in the file next to the artefact if that is of exactly this artefact, or else the
    card's.
    """
    path = reference_path(model)
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=StoredReference)
    except FileNotFoundError:
        return loaded.card.reference, ""
    except (OSError, msgspec.DecodeError) as error:
        return loaded.card.reference, f"{path} cannot be used: {error}. Make it again: make drift-reference."
    if stored.artifact_sha256 != loaded.sha256:
        other = stored.artifact_sha256[:12]
        return loaded.card.reference, f"{path} is of another model ({other}). Remove it or make it again."
    return stored.reference, ""


def not_whole(path: Path, size_bytes: int) -> ArtifactError:
    """The error for a file that is damaged or not an artefact."""
    return ArtifactError(
        f"The model at {path} ({size_bytes} bytes) is neither a complete TorchScript archive nor "
        "a complete ONNX model with its card: it is damaged or not a model. Export it or fetch it again."
    )


def _decode(path: Path, member: str, content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ArtifactError(
            f"The model at {path} has no valid {member}: {error}. Another program or a version "
            "with another schema wrote it. Export it again with this version."
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
        raise ArtifactError(
            f"The model at {path} has an empty probe, so it cannot be verified. Export it again."
        )
