"""The model file: one TorchScript archive with its card and its probe inside.

`forward(u8[N,3,S,S]) -> f32[N,K]`: calibrated probabilities; normalisation and temperature are in
the graph. Two more methods may stand beside it:
- `observe(u8[N,3,S,S]) -> (f32[N,K], f32[N])`: the same probabilities, and how far the photo's
  features are from all that the model was trained on (0 the same direction, 1 at right angles);
- `explain(u8[N,3,S,S]) -> f32[N,K,h,w]`: each class's activation map (Zhou et al. 2016).

`training.export` writes it with `save`, the handler reads it with `load`.

The probe is a handful of encoded images with the probabilities that the trainer's eager model gave
for them. Whoever loads an artefact for use replays the probe (`serving.handler`), so that a corrupt
file, a changed image library or a skewed preprocessing is found before the first request.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
import torch

from serving.errors import ArtifactError
from serving.preprocess import RESIZE_RULE
from serving.profile import Profile

SCHEMA_VERSION: Final = 1
PROBE_TOLERANCE: Final = {"fp32": 0.01, "int8": 0.05}
"""Largest absolute difference of probability between eager training code and this process, by precision.

Kernels for int8 round differently with VNNI and without: 0.025 was seen at a probability near one half.
"""

OBSERVE: Final = "observe"
EXPLAIN: Final = "explain"

T = TypeVar("T")
_CARD: Final = "card.json"
_PROBE: Final = "probe.json"


class Measured(msgspec.Struct, frozen=True):
    """A figure with its evidence."""

    value: float
    low: float
    """Lower end of the 95 % confidence interval."""
    high: float
    """Upper end of the 95 % confidence interval."""
    n: int
    """Number of photos behind the figure."""


class Lineage(msgspec.Struct, frozen=True):
    """Where the model comes from."""

    git_commit: str
    """Commit of the code that trained it; ends in `-dirty` if the tree had changes."""
    data_hash: str
    """SHA-256 of the manifest it was trained on."""
    mlflow_run_id: str
    libraries: dict[str, str]
    """Version by library name, as at export."""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model says of itself."""

    schema_version: int
    name: str
    version: str
    labels: list[str]
    """Class names in the order of the output's columns."""
    input_size: int
    """Side S of the square input, in pixels."""
    resize_rule: str
    abstain_threshold: float
    """An answer whose probability is below this is marked uncertain."""
    temperature: float
    metrics: dict[str, Measured]
    """Figures on the test split."""
    lineage: Lineage
    read_size: int | None = None
    """Side in pixels to which the graph enlarges the input for the network; None: as it is."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the weights and activations."""
    unfamiliar_above: float | None = None
    """A photo whose feature distance is above this looks like nothing in the training photos."""
    profile: Profile | None = None
    """What the validation photos were like: the reference for drift."""


class ProbeImage(msgspec.Struct, frozen=True):
    """One encoded image and the probabilities the trainer's eager model gave for it."""

    name: str
    data: bytes
    probabilities: list[float]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A loaded model file."""

    model: torch.jit.ScriptModule
    card: Card
    probe: list[ProbeImage]
    sha256: str
    """Of the file's bytes."""


def save(path: Path, model: torch.jit.ScriptModule, card: Card, probe: list[ProbeImage]) -> None:
    """Write the artefact under a temporary name and move it into place."""
    extra = {_CARD: msgspec.json.encode(card), _PROBE: msgspec.json.encode(probe)}
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with torchscript_deprecation_silenced():
            torch.jit.save(model, str(partial), _extra_files=extra)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> Artifact:
    """Read an artefact written by `save`.

    Raises:
        ArtifactError: no such file, not a TorchScript archive, damaged, without card or probe, of
            another schema, or made for another resize rule.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"There is no model at {path}. Make one with 'make train', fetch the released one with "
            "'git checkout models/release', or name another with MODEL=path."
        ) from error
    except OSError as error:
        raise ArtifactError(f"The model at {path} cannot be read: {error.strerror}.") from error
    extra: dict[str, bytes] = {_CARD: b"", _PROBE: b""}
    try:
        _check_sums(data)
        with torchscript_deprecation_silenced():
            model: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location="cpu", _extra_files=extra
            )
    except Exception as error:  # torch raises RuntimeError, ValueError and others on bad archives
        raise ArtifactError(
            f"The model at {path} ({len(data)} bytes) is not a whole TorchScript archive: "
            "it is damaged or of another kind. Export or fetch it again."
        ) from error
    card = _decode(path, _CARD, extra[_CARD], Card)
    probe = _decode(path, _PROBE, extra[_PROBE], list[ProbeImage])
    _check(path, card, probe)
    return Artifact(model.eval(), card, probe, hashlib.sha256(data).hexdigest())


def _check_sums(data: bytes) -> None:
    """Compare each member's CRC-32, which `torch.jit.load` does not do."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} is damaged")


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


def fuse(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Freeze the graph and let oneDNN fuse it: on AVX2, a quarter of the eager time a photo.

    An int8 network has its fused operators already, and oneDNN's fusion fails on them.
    """
    kept = [OBSERVE] if hasattr(module, OBSERVE) else []
    with torchscript_deprecation_silenced():
        frozen: torch.jit.ScriptModule = torch.jit.freeze(module, preserved_attrs=kept)
    torch.jit.enable_onednn_fusion("quantized::" not in str(frozen.inlined_graph))
    return frozen


class torchscript_deprecation_silenced(warnings.catch_warnings):  # noqa: N801 (a context manager)
    """TorchScript is deprecated since torch 2.9 and this file is the one that uses it."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated")
