"""The card: what an artefact says of itself. `training.export` writes it, everyone else reads it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from serving.contract.reference import Reference

SCHEMA_VERSION: Final = 1


class Measured(msgspec.Struct, frozen=True):
    """A figure with its evidence."""

    value: float
    """On the photos as they are."""
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
    """Of the training."""
    libraries: dict[str, str]
    """Version by library name, as at export."""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model says of itself."""

    schema_version: int
    """Version of this record; another one is refused."""
    name: str
    """Of the model, in the registry and in every prediction."""
    version: str
    """Day of the export, training run and what the export chose."""
    labels: list[str]
    """Class names in the order of the output's columns."""
    input_size: int
    """Side S of the square input, in pixels."""
    resize_rule: str
    """How a photo becomes the square; an artefact made for another rule is refused."""
    abstain_threshold: float
    """An answer whose probability is below this is marked uncertain."""
    temperature: float
    """By which logits are divided before the softmax (Guo et al. 2017); it is in the graph."""
    metrics: dict[str, Measured]
    """Figures on the test split."""
    lineage: Lineage
    """Code, data and training run."""
    read_size: int | None = None
    """Side in pixels to which the graph enlarges the input for the network; None: as it is."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the weights and activations."""
    unfamiliar_above: float | None = None
    """A photo whose feature distance is above this looks like nothing in the training photos."""
    reference: Reference | None = msgspec.field(default=None, name="profile")
    """What the validation photos were like, for the drift figures; `profile` in the file."""
