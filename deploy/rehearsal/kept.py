"""The photos that the service has kept for review, compared with the truth about all photos it was sent."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation.figures.intervals import Figure, wilson
from rehearsal.worlds import Picture, Truth

_KEPT: Final = "select photo, prediction, reasons from photos where same_as is null"
_DRAWN_BY_CHANCE: Final = "sample"


@dataclass(frozen=True)
class Answered:
    """A picture and the model's answer to it."""

    picture: Picture
    prediction: str

    @property
    def wrong(self) -> bool:
        """Whether the model was wrong."""
        return self.prediction != self.picture.label


@dataclass(frozen=True)
class Precision:
    """How many of the photos in the queue are worth a person's minute, and of all photos."""

    queue: Figure
    """Of those that are kept for a reason other than chance."""
    base: Figure
    """Of all that were answered."""

    @property
    def better_than_chance(self) -> bool:
        """Whether the queue's interval lies above the share of all photos, which is counted."""
        return self.queue.low > self.base.value

    def __str__(self) -> str:
        return f"{percent(self.queue)} of the queue, {percent(self.base)} of all photos"


def percent(figure: Figure) -> str:
    """A share with its interval and n."""
    return f"{figure.value:.1%} [{figure.low:.1%}, {figure.high:.1%}] (n={figure.n})"


def read(database: Path, truth: Truth) -> list[Answered]:
    """What the service has kept for a reason, other than the random sample; smoke photos are no traffic."""
    with contextlib.closing(sqlite3.connect(database)) as opened:
        rows = opened.execute(_KEPT).fetchall()
    return [
        Answered(found, prediction)
        for photo, prediction, reasons in rows
        if reasons != _DRAWN_BY_CHANCE and (found := truth.get(hashlib.sha256(photo).hexdigest()))
    ]


def precision(
    kept: Sequence[Answered], answered: Sequence[Answered], worth: Callable[[Answered], bool]
) -> Precision:
    """The share that is `worth` a look, of the queue and of all, with Wilson's intervals."""
    return Precision(_share(kept, worth), _share(answered, worth))


def accuracy(answered: Iterable[Answered]) -> Figure:
    """The share of right answers."""
    return _share(list(answered), lambda one: not one.wrong)


def _share(found: Sequence[Answered], worth: Callable[[Answered], bool]) -> Figure:
    return wilson(sum(map(worth, found)), len(found))
