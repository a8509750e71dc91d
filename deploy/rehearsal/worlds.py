"""Two worlds of drawn pictures, and the truth about each picture, which nobody else in a rehearsal knows.

In the old world a camera shows cats and dogs in colour, as `training.photos.drawn` draws them. Then the world
drifts: the camera goes grey and dark, and half of the dogs are of a new kind, with the pointed ears that only
cats had. The same number gives the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from training.photos import drawn

OLD, NEW = "old", "new"
_WORLDS: Final = (OLD, NEW)


@dataclass(frozen=True)
class Picture:
    """An encoded picture, and what it shows."""

    data: bytes
    label: str
    world: str
    """`OLD` or `NEW`."""
    new_kind: bool
    """A dog of the kind that the old world does not have."""

    @cached_property
    def sha256(self) -> str:
        """Of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


Truth = dict[str, Picture]
"""Each picture by its sha256."""


def picture(world: str, number: int) -> Picture:
    """The picture of this number; cats and dogs take turns, and so do both kinds of dog in the new world."""
    label = drawn.LABELS[number % 2]
    random = np.random.default_rng((_WORLDS.index(world), number))
    new_kind = world == NEW and label == "dog" and number % 4 == 1
    image = drawn.draw(label, random, _spitz_head if new_kind else None)
    if world == NEW:
        image = _grey_and_dark(image, random)
    return Picture(drawn.encode(image, 90), label, world, new_kind)


def pictures(world: str, numbers: Sequence[int]) -> list[Picture]:
    """These pictures, drawn on all cores."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(picture, [world] * len(numbers), numbers, chunksize=8))


def save(found: Iterable[Picture], folder: Path) -> Path:
    """Write the pictures as `folder/<label>/<sha256>.jpg`; return the folder."""
    for one in found:
        path = folder / one.label / f"{one.sha256[:16]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
    return folder


def truth(*groups: Iterable[Picture]) -> Truth:
    """The truth about all these pictures."""
    return {one.sha256: one for group in groups for one in group}


def _grey_and_dark(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """What the camera sees without its colours and most of its light."""
    pixels = np.asarray(image.convert("L"), np.float32) * random.uniform(0.25, 0.45)
    pixels = pixels + random.normal(0, 5, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")


def _spitz_head(pen: ImageDraw.ImageDraw, fur: drawn.Colour, random: np.random.Generator) -> None:
    """A dog with pointed ears: what else it has of a dog are round pupils, a long muzzle and the tongue."""
    x, y = 224 + random.uniform(-25, 25), 185 + random.uniform(-15, 15)
    rx, ry = random.uniform(82, 96), random.uniform(78, 92)
    for side in (-1, 1):
        tip = (x + side * rx * 0.8, y - ry - random.uniform(40, 65))
        pen.polygon([(x + side * rx * 0.95, y - 15), tip, (x + side * rx * 0.2, y - ry * 0.9)], fill=fur)
        inner = (tip[0] - side * 5, tip[1] + 22)
        ear = [(x + side * rx * 0.8, y - 30), inner, (x + side * rx * 0.4, y - ry * 0.85)]
        pen.polygon(ear, fill=drawn.shade(fur, 0.6))
    drawn.ellipse(pen, (x, y), (rx, ry), fur)
    drawn.eyes(pen, x, y - 14, False, random)
    drawn.ellipse(pen, (x, y + 42), (34, random.uniform(34, 44)), drawn.shade(fur, 1.25))
    drawn.ellipse(pen, (x, y + 24), (15, 10), (25, 22, 22))
    pen.line((x, y + 34, x, y + 50), (50, 35, 35), 3)
    if random.random() < 0.6:
        drawn.ellipse(pen, (x, y + 74), (11, 18), (225, 105, 115))
