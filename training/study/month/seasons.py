"""What the photos of the month look like: worlds, which change every photo, and their shares by day.

Seasons come in over three days, mix with what was there before, and go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.artefact.corruptions import Pixels, corrupt
from evaluation.figures.intervals import Floats

DAYS: Final = 30
AS_TAKEN: Final = "as taken"
_RAMP_DAYS: Final = 3
"""Until a season is there in full."""


@dataclass(frozen=True, slots=True)
class World:
    """How a camera takes a photo."""

    corruptions: tuple[tuple[str, int], ...] = ()
    """One after the other, each with its strength."""
    upside_down: bool = False

    def __str__(self) -> str:
        """In words, for the page."""
        words = ["turned by 180 degrees"] * self.upside_down + [
            f"{name} {by}" for name, by in self.corruptions
        ]
        return ", ".join(words) or "unchanged"


@dataclass(frozen=True, slots=True)
class Season:
    """A part of the month."""

    name: str
    first: int
    """Its first day, from 1."""
    worlds: dict[str, float]
    """Share of the photos by world, once the season is there in full."""


WORLDS: Final = {
    AS_TAKEN: World(),
    "dim": World((("greyscale", 4), ("darkness", 3))),
    "night": World((("darkness", 5), ("jpeg", 3))),
    "upside down": World(upside_down=True),
    "upside down and dim": World((("greyscale", 5), ("darkness", 3)), upside_down=True),
}
SEASONS: Final = (
    Season("as taken", 1, {AS_TAKEN: 1.0}),
    Season("dim", 6, {AS_TAKEN: 0.3, "dim": 0.7}),
    Season("night", 11, {"dim": 0.3, "night": 0.7}),
    Season("upside down", 16, {"dim": 0.3, "upside down": 0.7}),
    Season("upside down, dim", 21, {"upside down": 0.3, "upside down and dim": 0.7}),
    Season("as taken", 27, {AS_TAKEN: 1.0}),
)


def shares(day: int) -> Floats:
    """`f64[W]`: the share of each world among the photos of a day; before day 1 all are as taken."""
    mixture = _mixture(SEASONS[0])
    for season in SEASONS[1:]:
        come = min(1.0, max(0.0, (day - season.first + 1) / _RAMP_DAYS))
        mixture = (1 - come) * mixture + come * _mixture(season)
    return mixture


def _mixture(season: Season) -> Floats:
    return np.array([season.worlds.get(world, 0.0) for world in WORLDS])


def changed(pixels: Pixels, world: World, seed: int) -> Pixels:
    """`u8[3,S,S]` as the camera of a world takes it."""
    if world.upside_down:
        pixels = np.ascontiguousarray(pixels[:, ::-1, ::-1])
    for name, strength in world.corruptions:
        pixels = corrupt(pixels, name, strength, seed)
    return pixels
