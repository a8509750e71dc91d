"""A stranger's photos: drawn flowers in twelve uneven folders, as a phone and a download leave them."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COUNTS = (200, 120, 80, 60, 48, 40, 32, 26, 20, 16, 14, 12)
"""Photos in the folders `01`, `02` and so on."""
_ORIENTATION = 0x0112
_TURNED = {1: 0, 3: 180, 6: 90, 8: 270}
"""Degrees by which a camera with that EXIF orientation turned the picture."""


def draw(kind: int, rng: np.random.Generator) -> Image.Image:
    """A flower of that kind, of twelve: petals, hue and proportions differ, and each photo a little."""
    width, height = (int(side) for side in rng.integers(200, 420, 2))
    soil = tuple(int(v) for v in rng.integers(20, 120, 3))
    image = Image.new("RGB", (width, height), soil)
    canvas = ImageDraw.Draw(image)
    for _ in range(30):  # leaves
        x, y, side = rng.integers(0, width), rng.integers(0, height), rng.integers(10, 60)
        canvas.ellipse((x, y, x + side, y + side // 3), fill=(10, int(rng.integers(60, 160)), 20))
    petals, radius = 4 + kind % 6 * 2, min(width, height) * rng.uniform(0.3, 0.42)
    x, y = width * rng.uniform(0.42, 0.58), height * rng.uniform(0.42, 0.58)
    hue = (kind / 12 + rng.normal(0, 0.012)) % 1
    colour = tuple(int(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.75, rng.uniform(0.75, 1)))
    turn, size = rng.uniform(0, 2 * np.pi), radius * (0.7 if kind < 6 else 0.35)
    for petal in range(petals):
        angle = turn + 2 * np.pi * petal / petals
        px, py = x + radius * 0.6 * np.cos(angle), y + radius * 0.6 * np.sin(angle)
        canvas.ellipse((px - size / 2, py - size / 2, px + size / 2, py + size / 2), fill=colour)
    core = radius * 0.25
    canvas.ellipse((x - core, y - core, x + core, y + core), fill=(230, 190, 40))
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5))))


def phone_photo(image: Image.Image, orientation: int) -> bytes:
    """A JPEG as a phone writes it: stored turned, with the orientation in its EXIF."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    buffer = io.BytesIO()
    stored = image.rotate(_TURNED[orientation], expand=True)
    stored.save(buffer, "JPEG", quality=88, exif=exif)
    return buffer.getvalue()


def write(folder: Path, seed: int = 11) -> Path:
    """Write all folders: half phone photos, a WebP, a HEIC, a broken file, and a computer's leftovers."""
    rng = np.random.default_rng(seed)
    for kind, count in enumerate(COUNTS):
        own = folder / f"{kind + 1:02}"
        own.mkdir(parents=True)
        for number in range(count):
            orientation = int(rng.choice((3, 6, 8))) if number % 2 else 1
            (own / f"IMG_{number:04}.JPG").write_bytes(phone_photo(draw(kind, rng), orientation))
    draw(2, rng).save(folder / "03/saved.webp")
    (folder / "04/IMG_9001.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))
    whole = (folder / "05/IMG_0000.JPG").read_bytes()
    (folder / "05/IMG_9002.JPG").write_bytes(whole[: len(whole) // 3])
    (folder / "05/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
    (folder / ".DS_Store").write_bytes(bytes(100))
    return folder
