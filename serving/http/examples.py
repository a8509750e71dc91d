"""The pictures that a person may click on the page, if they are of the served model's classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = Path(__file__).parent / "web/examples"


class Example(msgspec.Struct, frozen=True):
    """A picture of the folder."""

    file: str
    """Its name."""
    shows: str
    """What it shows, in a word or two."""
    why: str
    """What it is an example of."""
    credit: str
    """Who made it, and under which licence it is here."""
    answer: str
    """What the released model answers, as a test checks: a label, `uncertain` or `unfamiliar`."""


class Examples(msgspec.Struct, frozen=True):
    """The file `examples.json` of the folder."""

    labels: list[str]
    """Classes of the model that these are examples for."""
    pictures: list[Example]
    """In the order of the page."""


@functools.cache
def read() -> Examples:
    """What the folder holds."""
    return msgspec.json.decode((FOLDER / "examples.json").read_bytes(), type=Examples)


def examples_for(labels: Sequence[str]) -> list[Example]:
    """The pictures for a model with these classes; none for a model with others."""
    known = read()
    return known.pictures if set(known.labels) == set(labels) else []
