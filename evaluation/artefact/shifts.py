"""`python -m evaluation shifts`: which changes of the photos would the drift alarm notice, and how soon?

The test split's photos are changed in known ways and measured as the service measures them. Windows drawn
from them are held to the artefact's reference: the share of windows that alarm, by size of the window, without
a change (false alarms) and with each. Beside it stands what the mean confidence says of the accuracy, and
what is true. Writes `build/shifts/`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from common.cores import map_on_cores
from common.errors import UserError
from common.photos import find_labelled, find_photos
from evaluation.figures import metrics
from evaluation.service.drift import alarms
from serving.contract.answer import Answer
from serving.contract.preprocess import DecodedImage
from serving.contract.reference import Reference, compare, measure
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.runtime.torchscript import one_thread

SIZES: Final = (25, 50, 100, 200, 500, 1000)
_DETECTED: Final = 0.95
"""Share of windows that must alarm for a size to be called enough."""
_PHOTOS: Final = 1000

Change = Callable[[Image.Image], Image.Image]
CHANGES: Final[dict[str, Change]] = {
    "none": lambda image: image,
    "greyscale": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "dark, a third of the light": lambda image: ImageEnhance.Brightness(image).enhance(1 / 3),
    "a fifth brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "blurred, a hundredth of the side": lambda image: image.filter(
        ImageFilter.GaussianBlur(max(image.size) / 100)
    ),
    "cropped to the middle half": lambda image: image.crop(
        (image.width // 4, image.height // 4, image.width * 3 // 4, image.height * 3 // 4)
    ),
    "thumbnails of 100 pixels": lambda image: ImageOps.contain(image, (100, 100)),
    "upside down": lambda image: image.rotate(180),
}


class ShiftsError(UserError):
    """The study cannot be made; the text names the cause and the next step."""


class Measured:
    """Photos of one kind: by quantity the bins they fall into, their confidence and whether it is right."""

    def __init__(self, rows: list[dict[str, float]], right: list[bool], reference: Reference) -> None:
        self.rows = rows
        self.right = np.array(right)
        self.confidence = np.array([row["confidence"] for row in rows])
        self.bins = {
            name: np.searchsorted(known.edges, [row[name] for row in rows], side="right")
            for name, known in reference.quantities.items()
        }

    def drifted(self, chosen: npt.NDArray[np.int64], reference: Reference) -> list[str]:
        """The quantities that alarm in a window of these photos."""
        names = []
        for name, known in reference.quantities.items():
            counts = np.bincount(self.bins[name][chosen], minlength=len(known.counts))
            found = compare(known.counts, counts.tolist())
            if alarms(found.distance, found.z):
                names.append(name)
        return names


def study(
    handler: ImageClassifierHandler, photos: list[tuple[Path, str]], strangers: list[Path], windows: int
) -> dict[str, Any]:
    """Measure every change, and strangers where there are some; ready for JSON.

    Raises:
        ShiftsError: the artefact has no reference.
        ServingError: a photo is refused.
    """
    card = handler.artifact.card
    reference = card.reference
    if reference is None:
        raise ShiftsError(f"{card.name} {card.version} has no drift reference: export it anew (make export).")

    def look(item: tuple[bytes, str]) -> tuple[dict[str, float], bool, Answer]:
        batch = handler.preprocess([{"body": item[0]}])
        image = batch.images[0]
        if not isinstance(image, DecodedImage):
            raise image
        answer = handler.postprocess(handler.inference(batch))[0]
        assert isinstance(answer, Answer)  # noqa: S101 (it was decoded)
        values = measure(
            image.pixels, image.width, image.height,
            list(answer.probabilities.values()), answer.feature_distance,
        )  # fmt: skip
        return values, answer.prediction == item[1], answer

    kinds: dict[str, Measured] = {}
    flags: dict[str, dict[str, Any]] = {}
    for name in CHANGES:
        files = [(_changed(path, CHANGES[name]), label) for path, label in photos]
        seen = map_on_cores(look, files, name, initializer=one_thread)
        kinds[name] = Measured([row for row, _, _ in seen], [right for _, right, _ in seen], reference)
        flags[name] = _flags([answer for _, _, answer in seen])
    last = card.labels[-1]
    only = [i for i, (_, label) in enumerate(photos) if label == last]
    whole = kinds["none"]
    kinds[f"only {last}s"] = Measured(
        [whole.rows[i] for i in only], [bool(whole.right[i]) for i in only], reference
    )
    if strangers:
        seen = map_on_cores(
            look, [(path.read_bytes(), "") for path in strangers], "strangers", initializer=one_thread
        )
        kinds["strangers"] = Measured([row for row, _, _ in seen], [False] * len(seen), reference)
        flags["strangers"] = _flags([answer for _, _, answer in seen])
    random = np.random.default_rng(0)
    return {
        "model": {"version": card.version, "sha256": handler.artifact.sha256},
        "windows": windows,
        "kinds": {
            name: _windows(kind, reference, windows, random) | flags.get(name, {})
            for name, kind in kinds.items()
        },
    }


def _changed(path: Path, change: Change) -> bytes:
    """The photo as a file again, with the change; unchanged photos are the files themselves."""
    if change is CHANGES["none"]:
        return path.read_bytes()
    with Image.open(path) as image:
        buffer = io.BytesIO()
        change(ImageOps.exif_transpose(image).convert("RGB")).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _flags(answers: list[Answer]) -> dict[str, Any]:
    unfamiliar = sum(bool(answer.unfamiliar) for answer in answers)
    either = sum(bool(answer.unfamiliar) or answer.uncertain for answer in answers)
    return {
        "unfamiliar": metrics.wilson(unfamiliar, len(answers)).as_dict(),
        "unfamiliar_or_uncertain": metrics.wilson(either, len(answers)).as_dict(),
    }


def _windows(
    kind: Measured, reference: Reference, windows: int, random: np.random.Generator
) -> dict[str, Any]:
    """Share of windows that alarm by size, what alarms in the largest, and the accuracy told and true."""
    shares: dict[str, float] = {}
    first: dict[str, int] = {}
    for size in SIZES:
        found = [kind.drifted(random.integers(0, len(kind.rows), size), reference) for _ in range(windows)]
        shares[str(size)] = sum(map(bool, found)) / windows
        first = {name: sum(name in names for names in found) for names in found for name in names}
    enough = next((size for size in SIZES if shares[str(size)] >= _DETECTED), None)
    whole = np.arange(len(kind.rows))
    distances = {
        name: compare(known.counts, np.bincount(kind.bins[name][whole], minlength=len(known.counts)).tolist())
        for name, known in reference.quantities.items()
    }
    strongest = max(distances, key=lambda name: distances[name].distance)
    return {
        "photos": len(kind.rows),
        "alarmed_share_by_size": shares,
        "photos_to_detect": enough,
        "quantities_in_the_largest": sorted(first, key=lambda name: -first[name]),
        "strongest": {"quantity": strongest, "distance": distances[strongest].distance},
        "accuracy_told": float(kind.confidence.mean()),
        "accuracy": metrics.wilson(int(kind.right.sum()), len(kind.right)).as_dict(),
    }


def as_markdown(figures: dict[str, Any]) -> str:
    """The study as a table."""
    lines = [
        f"{figures['windows']} windows a cell, drawn from the row's photos; {figures['model']['version']}.",
        "",
        "| change | strongest quantity | distance | photos to detect | "
        + " | ".join(f"alarms at {size}" for size in SIZES)
        + " | accuracy told | accuracy | unfamiliar |",
        "| --- " * (7 + len(SIZES)) + "|",
    ]
    for name, row in figures["kinds"].items():
        alarmed = " | ".join(f"{share:.1%}" for share in row["alarmed_share_by_size"].values())
        truth = "" if name == "strangers" else f"{row['accuracy']['value']:.2%}"
        flagged = f"{row['unfamiliar']['value']:.1%}" if "unfamiliar" in row else ""
        lines.append(
            f"| {name} (n={row['photos']}) | {row['strongest']['quantity'].replace('_', ' ')} | "
            f"{row['strongest']['distance']:.2f} | {row['photos_to_detect'] or 'not found'} | {alarmed} | "
            f"{row['accuracy_told']:.2%} | {truth} | {flagged} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Study and write; 0 when done, 2 if it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m evaluation shifts", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--manifest", type=Path, default=Path("data/prepared/manifest.csv"))
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--labelled", type=Path, help="folder or CSV, instead of the manifest's test split")
    parser.add_argument("--strangers", type=Path, help="folder of photos that show none of the classes")
    parser.add_argument("--windows", type=int, default=400, help="windows drawn for each change and size")
    parser.add_argument("--out", type=Path, default=Path("build/shifts"))
    options = parser.parse_args(arguments)
    try:
        if options.labelled:
            photos = find_labelled(options.labelled)
        else:
            table = pd.read_csv(options.manifest)
            table = table[table["split"] == "test"].sort_values("sha256")
            photos = [
                (options.raw / path, label) for path, label in zip(table["path"], table["label"], strict=True)
            ]
        handler = ImageClassifierHandler()
        handler.initialize(LocalContext.for_file(options.model))
        strangers = find_photos(options.strangers) if options.strangers else []
        strangers = [
            p for p in strangers if isinstance(handler.handle([{"body": p.read_bytes()}])[0], Answer)
        ]
        figures = study(handler, photos[:_PHOTOS], strangers, options.windows)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written.", file=sys.stderr)
        return 130
    text = as_markdown(figures)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "shifts.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0
