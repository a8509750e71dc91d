"""`python -m evaluation slices`: where the model is weak, by kind of photo and by kind of damage.

Accuracy with its interval on the test split's photos by size, shape, light, sharpness, colour and JPEG
quality, and on some of them after eleven corruptions at five strengths. Writes `build/slices/`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from common.cores import map_on_cores
from evaluation.artefact.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from evaluation.figures import metrics, pictures
from serving.contract.errors import ServingError
from serving.runtime.handler import Batch, ImageClassifierHandler, LocalContext
from serving.runtime.torchscript import one_thread

_LEAST: Final = 50
"""Photos that a slice needs to be called the weakest."""
_LUMINANCE: Final = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601
_STANDARD_LUMINANCE_MEAN: Final = 57.625  # of the 64 values in the JPEG standard's example table K.1
EDGES: Final[dict[str, tuple[float, ...]]] = {
    "longest side, pixels": (250, 400, 490),
    "long side over short": (1.1, 1.35, 1.6),
    "brightness": (0.3, 0.4, 0.5, 0.6),
    "sharpness": (200, 500, 1000, 2000),
    "saturation": (0.03, 0.15, 0.3),
    "JPEG quality": (70, 85, 92),
}
"""Bounds between the slices of each property."""


def properties(data: bytes, pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    """What a photo is like.

    Args:
        data: The encoded photo.
        pixels: `u8[3,S,S]`, as the network sees it.

    Returns:
        A value for each key of `EDGES`: brightness and saturation from 0 to 1, sharpness as the variance
        of the luminance's Laplacian, JPEG quality as libjpeg counts it (NaN for another format).
    """
    with Image.open(io.BytesIO(data)) as image:
        (width, height), tables = image.size, getattr(image, "quantization", None)
    luminance = np.tensordot(_LUMINANCE, pixels, 1)  # f64[S,S]
    high, low = pixels.max(0).astype(float), pixels.min(0).astype(float)
    return {
        "longest side, pixels": max(width, height),
        "long side over short": max(width, height) / min(width, height),
        "brightness": float(luminance.mean()) / 255,
        "sharpness": float(ndimage.laplace(luminance).var()),
        "saturation": float(((high - low) / np.maximum(high, 1)).mean()),
        "JPEG quality": _jpeg_quality(tables[0]) if tables else float("nan"),
    }


def _jpeg_quality(luminance_table: list[int]) -> float:
    """Invert libjpeg's scaling of the standard's table (`jpeg_quality_scaling`)."""
    scale = 100 * float(np.mean(luminance_table)) / _STANDARD_LUMINANCE_MEAN
    return 100 - scale / 2 if scale <= 100 else 5000 / scale


def slices_of(kinds: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series[bool]]]:
    """Each slice of each property: the property, the slice in words, and which photos are in it.

    Args:
        kinds: A column for each key of `EDGES`, a row a photo.
    """
    for name, edges in EDGES.items():
        for low, high in itertools.pairwise((-np.inf, *edges, np.inf)):
            text = f"under {high:g}" if low == -np.inf else f"{low:g} or more"
            if np.isfinite(low) and np.isfinite(high):
                text = f"{low:g} to {high:g}"
            yield name, text, (kinds[name] >= low) & (kinds[name] < high)


def by_slice(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy of each slice of each property.

    Args:
        table: A column for each key of `EDGES`, and `right`.
    """
    rows = []
    for name, text, inside in slices_of(table):
        figure = metrics.wilson(int(table["right"][inside].sum()), int(inside.sum()))
        rows.append({"property": name, "slice": text} | figure.as_dict())
    return rows


def measure(model: Path, manifest: Path, raw: Path, photos: int) -> dict[str, Any]:
    """Score the test split by slices, and its first `photos` photos, by hash, under each corruption.

    Raises:
        OSError: no manifest or photos.
        ServingError: the artefact cannot be loaded, or refuses a photo.
    """
    table = pd.read_csv(manifest)
    table = table[table["split"] == "test"].sort_values("sha256").reset_index(drop=True)
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(model))
    labels = handler.artifact.card.labels
    targets = [labels.index(label) for label in table["label"]]
    files = [raw / name for name in table["path"]]

    def look(number: int) -> tuple[bool, dict[str, float], npt.NDArray[np.uint8]]:
        data = files[number].read_bytes()
        batch = handler.preprocess([{"body": data}])
        if len(batch.inputs) == 0:
            raise batch.images[0]  # type: ignore[misc]  # it is the refusal
        pixels = batch.inputs[0].numpy()
        return _answer(handler, pixels) == targets[number], properties(data, pixels), pixels

    seen = map_on_cores(look, range(len(files)), "slices", initializer=one_thread)
    found = pd.DataFrame([values for _, values, _ in seen]).assign(right=[right for right, _, _ in seen])
    chosen = range(min(photos, len(files)))

    def damage(key: tuple[str, int, int]) -> bool:
        name, strength, number = key
        return _answer(handler, corrupt(seen[number][2], name, strength, number)) == targets[number]

    keys = list(itertools.product(CORRUPTIONS, STRENGTHS, chosen))
    hits = map_on_cores(damage, keys, "corruptions", initializer=one_thread)
    rights = np.array(hits).reshape(len(CORRUPTIONS), len(STRENGTHS), -1)
    slices = by_slice(found)
    large = [row for row in slices if row["n"] >= _LEAST]
    return {
        "model": {"version": handler.artifact.card.version, "sha256": handler.artifact.sha256},
        "accuracy": metrics.wilson(int(found["right"].sum()), len(found)).as_dict(),
        "accuracy_of_those_corrupted": metrics.wilson(
            int(found["right"][: len(chosen)].sum()), len(chosen)
        ).as_dict(),
        "slices": slices,
        "weakest": min(large, key=lambda row: row["value"]) if large else None,
        "corruptions": {
            name: [metrics.wilson(int(r.sum()), len(r)).as_dict() for r in rights[k]]
            for k, name in enumerate(CORRUPTIONS)
        },
    }


def _answer(handler: ImageClassifierHandler, pixels: npt.NDArray[np.uint8]) -> int:
    done = handler.inference(Batch([], torch.from_numpy(pixels)[None]))
    return int(done.probabilities[0].argmax())


def slices_figure(figures: dict[str, Any]) -> Figure:
    """Accuracy of each slice with its interval, and the whole split's as a line."""
    rows = [row for row in figures["slices"] if row["n"]]
    figure = pictures.new_figure(8.0, 0.27 * len(rows) + 1.2)
    axes = figure.add_subplot()
    places = range(len(rows))
    values = np.array([[row["value"], row["low"], row["high"]] for row in rows]).T
    axes.errorbar(
        values[0], places, xerr=[values[0] - values[1], values[2] - values[0]],
        fmt="o", color=pictures.BLUE, ecolor=pictures.GREY, capsize=2,
    )  # fmt: skip
    axes.axvline(figures["accuracy"]["value"], color=pictures.ORANGE, linestyle=":", label="whole split")
    axes.set_yticks(places, [f"{row['property']}: {row['slice']}  (n={row['n']})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, with its 95 % interval")
    axes.legend(loc="lower left")
    return figure


def corruptions_figure(figures: dict[str, Any]) -> Figure:
    """Accuracy by corruption and strength."""
    names = list(figures["corruptions"])
    values = np.array([[cell["value"] for cell in figures["corruptions"][name]] for name in names])
    figure = pictures.new_figure(6.0, 0.4 * len(names) + 1.4)
    axes = figure.add_subplot()
    axes.imshow(values, cmap="cividis", vmin=0.5, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column, row, f"{value:.1%}", ha="center", va="center", color="white" if value < 0.75 else "black"
        )
    axes.set_xticks(range(len(STRENGTHS)), [str(strength) for strength in STRENGTHS])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("strength")
    clean = figures["accuracy_of_those_corrupted"]
    axes.set_title(f"Accuracy under corruption (clean {clean['value']:.1%}, n={clean['n']} each)")
    return figure


_FIGURES: Final[dict[str, Callable[[dict[str, Any]], Figure]]] = {
    "slices.png": slices_figure,
    "corruptions.png": corruptions_figure,
}


def main(arguments: list[str]) -> int:
    """Measure and draw; 0 when done, 2 if it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m evaluation slices", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"))
    parser.add_argument("--manifest", type=Path, default=Path("data/prepared/manifest.csv"))
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--photos", type=int, default=300, help="of the test split, for each corruption")
    parser.add_argument("--out", type=Path, default=Path("build/slices"))
    options = parser.parse_args(arguments)
    try:
        figures = measure(options.model, options.manifest, options.raw, options.photos)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written.", file=sys.stderr)
        return 130
    for name, draw in _FIGURES.items():
        pictures.save(draw(figures), options.out / name)
    (options.out / "slices.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if figures["weakest"]:
        weakest = figures["weakest"]
        value, interval, n = metrics.show(weakest)
        print(f"weakest slice: {weakest['property']} {weakest['slice']}: {value}  95 % {interval}  n={n}")
    for name, cells in figures["corruptions"].items():
        print(f"{name:16} " + "  ".join(f"{cell['value']:.3f}" for cell in cells))
    return 0
