"""`python -m evaluation shifts`: which changes of the photos does the drift alarm detect, and how soon?

Photos are changed in known ways and measured as in the service; windows drawn from them are compared with the
artefact's reference. The table shows the mean confidence, from which a service estimates its accuracy without
labels, next to the accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np

from common.cores import map_on_cores
from common.errors import UserError
from common.files import write_json, write_text
from common.manifest import labelled, read_split
from common.photos import find_labelled, find_photos
from evaluation.artefact.changes import CHANGES, UNCHANGED, changed
from evaluation.artefact.results import Model, Shift, Shifts
from evaluation.artefact.windows import SIZES, Observed, Windows
from serving.contract.answer import Answer
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage
from serving.contract.reference import measure
from serving.runtime.handler import ImageClassifierHandler, load_handler
from serving.runtime.torchscript import one_thread

STRANGERS: Final = "strangers"
_PHOTOS: Final = 1000
"""Most labelled photos that are used."""


class ShiftsError(UserError):
    """The study cannot be run; the text names the cause and the next step."""


def study(
    handler: ImageClassifierHandler, photos: list[tuple[Path, str]], strangers: list[Path], windows: int
) -> Shifts:
    """Measure every change, and strangers if any; strangers that the handler refuses are left out.

    Raises:
        ShiftsError: the artefact has no reference.
        ImageError: a labelled photo is refused.
    """
    card = handler.artifact.card
    reference = card.reference
    if reference is None:
        raise ShiftsError(f"{card.name} {card.version} has no drift reference. Export it again: make export.")
    kinds: dict[str, list[Observed]] = {}
    for name in CHANGES:
        kinds[name] = []
        for found in _observe_all(handler, photos, name, title=name):
            if isinstance(found, ImageError):
                raise found
            kinds[name].append(found)
    last = card.labels[-1]
    kinds[f"only {last}s"] = [
        photo for photo, (_, label) in zip(kinds[UNCHANGED], photos, strict=True) if label == last
    ]
    if strangers:
        unlabelled = [(path, "") for path in strangers]
        found_all = _observe_all(handler, unlabelled, UNCHANGED, title=STRANGERS)
        kinds[STRANGERS] = [found for found in found_all if isinstance(found, Observed)]
    random = np.random.default_rng(0)
    return Shifts(
        model=Model.of(handler.artifact),
        windows=windows,
        kinds={
            name: Windows(observed, reference).measure(windows, random)
            for name, observed in kinds.items()
            if observed
        },
    )


def _observe_all(
    handler: ImageClassifierHandler, photos: list[tuple[Path, str]], change: str, title: str
) -> list[Observed | ImageError]:
    """Observe each photo after the change `change`, or return why it is refused."""

    def observe(photo: tuple[Path, str]) -> Observed | ImageError:
        path, label = photo
        batch = handler.preprocess([{"body": changed(path, change)}])
        image = batch.images[0]
        if not isinstance(image, DecodedImage):
            return image
        answer = handler.postprocess(handler.inference(batch))[0]
        assert isinstance(answer, Answer)  # noqa: S101 (the photo was decoded)
        quantities = measure(
            image.pixels, image.width, image.height,
            list(answer.probabilities.values()), answer.feature_distance,
        )  # fmt: skip
        return Observed(quantities, answer, answer.prediction == label)

    return map_on_cores(observe, photos, title, initializer=one_thread)


def as_markdown(found: Shifts) -> str:
    """The study as a table."""
    lines = [
        f"{found.windows} windows per cell, drawn from the row's photos; {found.model.version}.",
        "",
        "| change | strongest quantity | distance | photos to detect | "
        + " | ".join(f"alarms at {size}" for size in SIZES)
        + " | mean confidence | accuracy | unfamiliar |",
        "| --- " * (7 + len(SIZES)) + "|",
    ]
    return "\n".join([*lines, *(_row(name, shift) for name, shift in found.kinds.items())])


def _row(name: str, shift: Shift) -> str:
    cells = [
        f"{name} (n={shift.photos})",
        shift.strongest.quantity.replace("_", " "),
        f"{shift.strongest.distance:.2f}",
        str(shift.photos_to_detect or "not found"),
        *(f"{share:.1%}" for share in shift.alarmed_share_by_size.values()),
        f"{shift.accuracy_told:.2%}",
        "" if name == STRANGERS else f"{shift.accuracy.value:.2%}",
        f"{shift.unfamiliar.value:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def main(options: argparse.Namespace) -> int:
    """Run the study and write it; return 0."""
    if options.labelled:
        photos = find_labelled(options.labelled)
    else:
        photos = labelled(read_split(options.manifest, "test").sort_values("sha256"), options.raw)
    strangers = find_photos(options.strangers) if options.strangers else []
    found = study(load_handler(options.model), photos[:_PHOTOS], strangers, options.windows)
    text = as_markdown(found)
    write_json(options.out / "shifts.json", found)
    write_text(options.out / "table.md", text + "\n")
    print(text)
    return 0
