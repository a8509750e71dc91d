"""`python -m evaluation slices`: find where a model is weak, by kind of photo and by corruption."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from common.cores import map_on_cores
from common.files import write_json
from common.manifest import labelled, read_split
from evaluation import ledger
from evaluation.artefact.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from evaluation.artefact.properties import LEAST, properties, slices_of
from evaluation.artefact.results import AsTaken, Slice, Slices
from evaluation.artefact.targets import targets
from evaluation.figures import intervals, pictures
from evaluation.ledger import Model
from serving.contract.preprocess import DecodedImage
from serving.runtime.handler import Batch, ImageClassifierHandler, load_handler


def by_slice(table: pd.DataFrame) -> list[Slice]:
    """Accuracy of each slice of each property.

    Args:
        table: One column for each key of `properties.EDGES`, and `right`.
    """
    return [
        Slice(
            **msgspec.structs.asdict(intervals.wilson(int(table["right"][inside].sum()), int(inside.sum()))),
            property=name,
            slice=text,
        )
        for name, text, inside in slices_of(table)
    ]


def measure(
    model: Path, manifest: Path, raw: Path, split: str, photos: int, as_taken: Path | None = None
) -> Slices:
    """Evaluate a split by slice, and its first `photos` photos, by hash, under each corruption.

    Args:
        model: The artefact.
        manifest: Of the splits.
        raw: Folder of the manifest's photos.
        split: Name of the split.
        photos: How many are corrupted.
        as_taken: Folder in which some of the photos lie as they were taken, under the same paths as in `raw`.

    Raises:
        ManifestError: there is no such split.
        LabelError: a photo's label is not a class of the model.
        OSError: a photo cannot be read.
        ServingError: the artefact cannot be loaded, or refuses a photo.
    """
    rows = read_split(manifest, split).sort_values("sha256")
    found = labelled(rows, raw)
    handler = load_handler(model)
    ledger.record("slices", split, [Model.of(handler.artifact)], rows)
    truth = targets((label for _, label in found), handler.artifact.card.labels)

    def observe(number: int) -> tuple[bool, dict[str, float], npt.NDArray[np.uint8]]:
        data = found[number][0].read_bytes()
        image = handler.preprocess([{"body": data}]).images[0]
        if not isinstance(image, DecodedImage):
            raise image
        right = _answer(handler, image.pixels) == int(truth[number])
        return right, properties(data, image.pixels), image.pixels

    seen = map_on_cores(observe, range(len(found)), "slices")
    table = pd.DataFrame([values for _, values, _ in seen]).assign(right=[right for right, _, _ in seen])
    chosen = range(min(photos, len(found)))

    def right_if_corrupted(key: tuple[str, int, int]) -> bool:
        name, strength, number = key
        answer = _answer(handler, corrupt(seen[number][2], name, strength, number))
        return answer == int(truth[number])

    keys = list(itertools.product(CORRUPTIONS, STRENGTHS, chosen))
    hits = map_on_cores(right_if_corrupted, keys, "corruptions")
    rights = np.array(hits).reshape(len(CORRUPTIONS), len(STRENGTHS), -1)
    slices = by_slice(table)
    large = [one for one in slices if one.n >= LEAST]
    return Slices(
        model=Model.of(handler.artifact),
        accuracy=intervals.wilson(int(table["right"].sum()), len(table)),
        accuracy_of_those_corrupted=intervals.wilson(int(table["right"][: len(chosen)].sum()), len(chosen)),
        slices=slices,
        weakest=min(large, key=lambda one: one.value) if large else None,
        corruptions={
            name: [intervals.wilson(int(right.sum()), len(right)) for right in rights[k]]
            for k, name in enumerate(CORRUPTIONS)
        },
        corrupted=intervals.share_of_clusters(rights.reshape(-1, len(chosen)).T),
        as_taken=_as_taken(handler, rows, as_taken, truth, table["right"].to_numpy()) if as_taken else None,
        split=split,
    )


def _as_taken(
    handler: ImageClassifierHandler,
    rows: pd.DataFrame,
    folder: Path,
    truth: intervals.Ints,
    right: intervals.Flags,
) -> AsTaken | None:
    """The photos that `folder` holds too, against their copies; None if it holds none of them."""
    numbers = [number for number, path in enumerate(rows["path"]) if (folder / path).is_file()]
    if not numbers:
        return None

    def is_right(number: int) -> bool:
        image = handler.preprocess([{"body": (folder / rows["path"].iloc[number]).read_bytes()}]).images[0]
        if not isinstance(image, DecodedImage):
            raise image
        return _answer(handler, image.pixels) == int(truth[number])

    taken = np.array(map_on_cores(is_right, numbers, "as taken"))
    copies = right[numbers].astype(bool)
    return AsTaken(
        accuracy=intervals.wilson(int(taken.sum()), len(taken)),
        of_copies=intervals.wilson(int(copies.sum()), len(copies)),
        difference=intervals.paired_difference(taken, copies),
    )


def _answer(handler: ImageClassifierHandler, pixels: npt.NDArray[np.uint8]) -> int:
    """Number of the most probable class for `u8[3,S,S]`."""
    done = handler.inference(Batch([], pixels[None]))
    return int(done.probabilities[0].argmax())


def slices_figure(found: Slices) -> Figure:
    """Accuracy of each slice with its interval; a line marks the whole split."""
    rows = [one for one in found.slices if one.n]
    figure = pictures.new_figure(8.0, 0.27 * len(rows) + 1.2)
    axes = figure.add_subplot()
    places = range(len(rows))
    values, lows, highs = np.array([[one.value, one.low, one.high] for one in rows]).T
    axes.errorbar(
        values, places, xerr=[values - lows, highs - values],
        fmt="o", color=pictures.BLUE, ecolor=pictures.GREY, capsize=2,
    )  # fmt: skip
    axes.axvline(found.accuracy.value, color=pictures.ORANGE, linestyle=":", label="whole split")
    axes.set_yticks(places, [f"{one.property}: {one.slice}  (n={one.n})" for one in rows])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, with 95 % interval")
    axes.legend(loc="lower left")
    return figure


def corruptions_figure(found: Slices) -> Figure:
    """Accuracy by corruption and strength."""
    names = list(found.corruptions)
    values = np.array([[cell.value for cell in found.corruptions[name]] for name in names])
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
    clean = found.accuracy_of_those_corrupted
    axes.set_title(f"Accuracy under corruption (clean {clean.value:.1%}, n={clean.n} each)")
    return figure


_FIGURES: Final[dict[str, Callable[[Slices], Figure]]] = {
    "slices.png": slices_figure,
    "corruptions.png": corruptions_figure,
}


def main(options: argparse.Namespace) -> int:
    """Measure and draw; return 0."""
    found = measure(
        options.model, options.manifest, options.raw, options.split, options.photos, options.as_taken
    )
    for name, draw in _FIGURES.items():
        pictures.save(draw(found), options.out / name)
    write_json(options.out / "slices.json", found)
    if found.weakest:
        value, interval, n = intervals.show(found.weakest)
        print(
            f"weakest slice: {found.weakest.property} {found.weakest.slice}: {value}  95 % {interval}  n={n}"
        )
    for name, cells in found.corruptions.items():
        print(f"{name:16} " + "  ".join(f"{cell.value:.3f}" for cell in cells))
    return 0
