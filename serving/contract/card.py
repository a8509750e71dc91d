"""The card: an artefact's description of its model. `training.export` writes it; all else reads it."""

from __future__ import annotations

from datetime import date
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from serving.contract.reference import Reference

SCHEMA_VERSION: Final = 1


class Measured(msgspec.Struct, frozen=True):
    """A metric with its confidence interval."""

    value: float
    """The point estimate."""
    low: float
    """Lower end of the 95 % confidence interval."""
    high: float
    """Upper end of the 95 % confidence interval."""
    n: int
    """Number of photos that it was measured on."""


class InProduction(Measured, frozen=True):
    """A `Measured`: the accuracy on photos of production, a random sample labelled by people."""

    since: date | None = None
    """Day (UTC) on which the first of the photos was answered; None if that is not known."""


class Lineage(msgspec.Struct, frozen=True):
    """Where the model comes from."""

    git_commit: str
    """Commit of the code that trained it; ends in `-dirty` if tracked code or configuration had changes."""
    data_hash: str
    """SHA-256 of the manifest it was trained on."""
    mlflow_run_id: str
    """MLflow's id of the training run."""
    libraries: dict[str, str]
    """Version by library name, at the export."""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a model."""

    schema_version: int
    """Version of this record; a card with another version is refused."""
    name: str
    """Name of the model, in the registry and in every prediction."""
    version: str
    """Date of the export, training run, and the options of the export: read size, another precision."""
    labels: list[str]
    """Class names in the order of the output's columns."""
    input_size: int
    """Side S of the square input, in pixels."""
    resize_rule: str
    """How a photo becomes the square; an artefact made for another rule is refused."""
    abstain_threshold: float
    """An answer whose probability is below this is marked uncertain."""
    temperature: float
    """Divisor of the logits before the softmax (Guo et al. 2017), inside the graph."""
    metrics: dict[str, Measured]
    """Metrics on the split `measured_on`."""
    lineage: Lineage
    """Code, data and training run behind the model."""
    abstain_bound: float | None = None
    """Share of wrong answers among the others: an upper bound, for photos like those of validation, with a
    confidence of 95 %; None in older artefacts."""
    measured_on: Literal["validation", "test"] = "test"
    """Split of the metrics: validation after the export, test once the artefact is released."""
    read_size: int | None = None
    """Side in pixels to which the graph enlarges the input; None leaves it as it is."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Precision of the weights and activations."""
    unfamiliar_above: float | None = None
    """A photo whose feature distance is above this is marked unfamiliar."""
    reference: Reference | None = msgspec.field(default=None, name="profile")
    """Distributions of photos, to measure drift against; `profile` in the file."""
    production: InProduction | UnsetType = UNSET
    """Accuracy in production; absent if no photo of it was there at the release."""
