"""Drawn cats and dogs, to try the whole pipeline without photos.

A model trained on them knows only drawings. Fur, pose, size, place, background, light, noise and JPEG
quality vary; the same seed gives the same pictures. Cats have pointed ears, whiskers and slit pupils;
dogs have hanging ears, a long muzzle and round pupils. Four faults of real archives are included: an
empty file, a text file, a near-duplicate and a truncated file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from common.progress import progress

Colour = tuple[int, int, int]
Point = tuple[float, float]
Head = Callable[[ImageDraw.ImageDraw, Colour, np.random.Generator], None]

LABELS: Final = ("cat", "dog")
_CANVAS: Final = 448
_FUR: Final[tuple[Colour, ...]] = (
    (208, 140, 70), (90, 85, 82), (45, 42, 40), (225, 215, 200), (150, 110, 75), (175, 170, 165),
    (120, 80, 50),
)  # fmt: skip
_EYES: Final[tuple[Colour, ...]] = ((120, 170, 60), (210, 170, 40), (90, 140, 190), (110, 70, 35))


def draw_dataset(folder: Path, per_class: int, seed: int) -> None:
    """Draw `per_class` pictures of each label to `folder/<label>/N.jpg`, and four faulty files."""
    with progress("draw", per_class * len(LABELS), "pictures") as bar:
        for number, label in enumerate(LABELS):
            (folder / label).mkdir(parents=True, exist_ok=True)
            for index in range(per_class):
                data = encode(draw(label, np.random.default_rng((seed, number, index))), 90)
                (folder / label / f"{index}.jpg").write_bytes(data)
                bar.update()
    _add_faults(folder, per_class)


def _add_faults(folder: Path, per_class: int) -> None:
    first = (folder / "cat" / "0.jpg").read_bytes()
    (folder / "cat" / f"{per_class}.jpg").write_bytes(b"")
    (folder / "dog" / f"{per_class}.jpg").write_bytes(b"This is a text with the name of a picture.\n")
    (folder / "cat" / f"{per_class + 1}.jpg").write_bytes(encode(Image.open(io.BytesIO(first)), 60))
    (folder / "dog" / f"{per_class + 1}.jpg").write_bytes((folder / "dog" / "0.jpg").read_bytes()[:-2000])


def encode(image: Image.Image, quality: int) -> bytes:
    """The picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def draw(label: str, random: np.random.Generator, head: Head | None = None) -> Image.Image:
    """Draw one RGB picture of a `label`, 160 to 400 pixels per side; another `head` makes another kind."""
    fur = _vary(_FUR[random.integers(len(_FUR))], random)
    image = _background(random)
    animal = Image.new("RGBA", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(animal)
    _body(pen, fur, label, random)
    (head or (_cat_head if label == "cat" else _dog_head))(pen, fur, random)
    animal = _texture(animal, random)
    scale = random.uniform(0.6, 1.05)
    side = int(_CANVAS * scale)
    animal = animal.resize((side, side)).rotate(random.uniform(-20, 20), Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        animal = animal.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    slack = _CANVAS - side
    corner = tuple(int(slack / 2 + random.uniform(-0.35, 0.35) * max(slack, 60)) for _ in range(2))
    image.paste(animal, (corner[0], corner[1]), animal)
    return _photograph(image, random)


def scene(random: np.random.Generator) -> Image.Image:
    """Draw what is behind an animal, without one."""
    return _photograph(_background(random), random)


def _vary(colour: Colour, random: np.random.Generator, by: int = 18) -> Colour:
    red, green, blue = (int(np.clip(c + random.integers(-by, by + 1), 0, 255)) for c in colour)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, lighter or darker."""
    red, green, blue = (int(np.clip(c * factor, 0, 255)) for c in colour)
    return red, green, blue


def _background(random: np.random.Generator) -> Image.Image:
    """A blurred scene: a sky or wall, a floor, and a few objects."""
    top, bottom = (_vary((130, 130, 130), random, 100) for _ in range(2))
    horizon = int(_CANVAS * random.uniform(0.4, 0.8))
    image = Image.new("RGB", (_CANVAS, _CANVAS), top)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, horizon, _CANVAS, _CANVAS), fill=bottom)
    for _ in range(random.integers(3, 12)):
        x, y = random.uniform(-50, _CANVAS, 2)
        w, h = random.uniform(20, 180, 2)
        shape = pen.ellipse if random.random() < 0.5 else pen.rectangle
        shape((x, y, x + w, y + h), fill=_vary((128, 128, 128), random, 110))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(2, 10)))


def ellipse(pen: ImageDraw.ImageDraw, centre: Point, radii: Point, fill: Colour) -> None:
    """Draw an ellipse."""
    (x, y), (rx, ry) = centre, radii
    pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=fill)


def _body(pen: ImageDraw.ImageDraw, fur: Colour, label: str, random: np.random.Generator) -> None:
    x = 224 + random.uniform(-50, 50)
    dark = shade(fur, 0.85)
    bend = random.uniform(0.4, 1.2)
    tail = [(x + 90 + 70 * math.sin(bend * t) * t, 380 - 150 * t) for t in np.linspace(0, 1, 12)]
    pen.line(tail, fill=dark, width=14 if label == "cat" else 24, joint="curve")
    ellipse(pen, (x, 350), (random.uniform(85, 125), 115), fur)
    for side in (-45, 45):
        ellipse(pen, (x + side, 432), (26, 22), dark)
    if random.random() < 0.5:
        ellipse(pen, (x, 350), (45, 80), shade(fur, 1.35))


def eyes(pen: ImageDraw.ImageDraw, x: float, y: float, slit: bool, random: np.random.Generator) -> None:
    """Draw both eyes, between which the point lies, with slit or round pupils."""
    colour = _vary(_EYES[random.integers(len(_EYES))], random)
    gap, radius = random.uniform(32, 42), random.uniform(11, 16)
    for side in (-gap, gap):
        ellipse(pen, (x + side, y), (radius, radius * (0.8 if slit else 1)), colour)
        ellipse(pen, (x + side, y), (radius * (0.25 if slit else 0.6), radius * 0.7), (10, 10, 10))
        ellipse(pen, (x + side + 3, y - 4), (2.5, 2.5), (245, 245, 245))


def _cat_head(pen: ImageDraw.ImageDraw, fur: Colour, random: np.random.Generator) -> None:
    x, y = 224 + random.uniform(-25, 25), 185 + random.uniform(-15, 15)
    rx, ry = random.uniform(88, 102), random.uniform(74, 86)
    lean = random.uniform(-12, 12)
    for side in (-1, 1):
        tip = (x + side * (rx * 0.85) + lean, y - ry - random.uniform(35, 60))
        pen.polygon([(x + side * rx * 0.95, y - 15), tip, (x + side * rx * 0.2, y - ry * 0.9)], fill=fur)
        inner = (tip[0] - side * 5, tip[1] + 20)
        pen.polygon(
            [(x + side * rx * 0.8, y - 30), inner, (x + side * rx * 0.4, y - ry * 0.85)],
            fill=(225, 160, 160),
        )
    ellipse(pen, (x, y), (rx, ry), fur)
    if random.random() < 0.6:  # a tabby's stripes
        for offset in (-24, 0, 24):
            pen.line((x + offset, y - ry + 6, x + offset * 0.7, y - ry + 34), shade(fur, 0.55), 7)
    eyes(pen, x, y - 8, True, random)
    ellipse(pen, (x, y + 34), (36, 24), shade(fur, 1.3))
    pen.polygon([(x - 9, y + 20), (x + 9, y + 20), (x, y + 31)], fill=(215, 120, 130))
    pen.line([(x - 16, y + 40), (x, y + 34), (x + 16, y + 40)], (60, 40, 40), 3)
    for side in (-1, 1):
        for slope in (-14, 0, 14):
            pen.line((x + side * 24, y + 34, x + side * 112, y + 30 + slope), (235, 235, 235), 2)


def _dog_head(pen: ImageDraw.ImageDraw, fur: Colour, random: np.random.Generator) -> None:
    x, y = 224 + random.uniform(-25, 25), 180 + random.uniform(-15, 15)
    rx, ry = random.uniform(74, 88), random.uniform(86, 100)
    ear = shade(fur, random.uniform(0.5, 0.75))
    drop = random.uniform(55, 85)
    ellipse(pen, (x, y), (rx, ry), fur)
    for side in (-1, 1):
        ellipse(pen, (x + side * (rx + 6), y + 5), (28, drop), ear)
    eyes(pen, x, y - 18, False, random)
    ellipse(pen, (x, y + 52), (46, random.uniform(46, 60)), shade(fur, 1.2))
    ellipse(pen, (x, y + 30), (22, 15), (25, 22, 22))
    pen.line((x, y + 44, x, y + 66), (50, 35, 35), 4)
    pen.arc((x - 26, y + 48, x + 26, y + 82), 10, 170, (50, 35, 35), 4)
    if random.random() < 0.6:
        ellipse(pen, (x + random.uniform(-8, 8), y + 92), (14, 24), (225, 105, 115))
    if random.random() < 0.5:  # a patch over one eye
        pen.chord((x + 8, y - 60, x + 62, y + 8), 0, 360, outline=shade(fur, 0.6), width=7)


def _texture(animal: Image.Image, random: np.random.Generator) -> Image.Image:
    """Fur: noise on the drawn pixels, smoothed to strands, and light from one side."""
    pixels = np.asarray(animal, np.float32).copy()
    noise = Image.fromarray(random.integers(0, 255, (_CANVAS, _CANVAS), np.uint8))
    strands = np.asarray(noise.filter(ImageFilter.GaussianBlur(1.2)), np.float32) - 127
    slope = random.uniform(-0.3, 0.3, 2)
    ramp = np.linspace(-1, 1, _CANVAS)
    light = 1 + slope[0] * ramp[None, :] + slope[1] * ramp[:, None]
    pixels[..., :3] = np.clip((pixels[..., :3] + strands[..., None] * 0.7) * light[..., None], 0, 255)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def _photograph(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Exposure, tint, focus, sensor noise and size of a snapshot."""
    pixels = np.asarray(image, np.float32)
    pixels = pixels * random.uniform(0.6, 1.25) * random.uniform(0.92, 1.08, 3).astype(np.float32)
    pixels = pixels + random.normal(0, random.uniform(1, 9), pixels.shape).astype(np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.5)))
    width, height = (int(side) for side in random.integers(160, 401, 2))
    return image.resize((width, height), Image.Resampling.BICUBIC)
