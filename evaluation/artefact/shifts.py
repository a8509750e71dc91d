"""`python -m evaluation shifts`: which changes of the photos does the drift alarm detect, and how soon?

Photos are changed in known ways and measured as in the service; they arrive in a window of others, which is
compared with a reference of still others. The table shows the mean confidence, from which a service estimates
its accuracy without labels, next to the accuracy.
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
from common.progress import progress
from evaluation.artefact import windows
from evaluation.artefact.changes import CHANGES, UNCHANGED, changed
from evaluation.artefact.results import Detection, Shift, Shifts, Strongest
from evaluation.artefact.windows import Observed
from evaluation.figures import intervals
from evaluation.ledger import Model
from serving.contract.answer import Answer
from serving.contract.artifact import read_reference
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage
from serving.contract.reference import LEAST_PHOTOS, make_reference, measure
from serving.runtime.handler import ImageClassifierHandler, load_handler

STRANGERS: Final = "strangers"
_CHANGED: Final = 1000
"""Most labelled photos that are changed."""
_LEAST: Final = 200
"""Fewest photos without a change: half of them make the reference."""
_OF_REFERENCE: Final = 2000
"""Photos in the reference of a run, if the artefact has none to take the number from."""


class ShiftsError(UserError):
    """The study cannot be run; the text names the cause and the next step."""


def study(
    handler: ImageClassifierHandler,
    photos: list[tuple[Path, str]],
    others: list[Path],
    strangers: list[Path],
    of_reference: int,
    runs: int,
) -> Shifts:
    """Measure false alarms, single quantities, every change, and strangers if any.

    Args:
        handler: Of the artefact.
        photos: Labelled photos to change.
        others: Photos for references and windows.
        strangers: Photos that show none of the classes; those that the handler refuses are left out.
        of_reference: Photos in a reference, unless these are more than half of the others.
        runs: Simulated runs in each row.

    Raises:
        ShiftsError: there are too few photos.
        ImageError: a photo is refused.
    """
    card, classes = handler.artifact.card, len(handler.artifact.card.labels)
    if len(others) < _LEAST or len(photos) < LEAST_PHOTOS:
        raise ShiftsError(
            f"{len(photos)} photos to change and {len(others)} others are too few: {LEAST_PHOTOS} and "
            f"{_LEAST} are needed. Add photos."
        )
    unlabelled = [(path, "") for path in others]
    pool = [
        found.quantities for found in _observe_strictly(handler, unlabelled, UNCHANGED, "without a change")
    ]
    kinds = {name: _observe_strictly(handler, photos, name, name) for name in CHANGES}
    last = card.labels[-1]
    kinds[f"only {last}s"] = [
        photo for photo, (_, label) in zip(kinds[UNCHANGED], photos, strict=True) if label == last
    ]
    if strangers:
        found_all = _observe_all(handler, [(path, "") for path in strangers], UNCHANGED, title=STRANGERS)
        kinds[STRANGERS] = [found for found in found_all if isinstance(found, Observed)]
    of_reference = min(of_reference, len(pool) // 2)
    random = np.random.default_rng(0)
    unchanged = [photo.quantities for photo in kinds[UNCHANGED]]

    def detect(arriving: list[windows.Quantities]) -> Detection:
        found = windows.detection(pool, arriving, classes, of_reference, runs, random)
        bar.update()
        return found

    with progress("simulate", 1 + len(pool[0]) + len(kinds), "rows") as bar:
        alarms = windows.false_alarms(pool, classes, of_reference, runs, random)
        bar.update()
        moved = {name: detect(windows.moved(unchanged, name, classes)) for name in pool[0]}
        shifts = {}
        for name, observed in kinds.items():
            values = [photo.quantities for photo in observed]
            far = windows.distances(make_reference(pool, classes), values)
            strongest = max(far, key=lambda quantity: far[quantity])
            answers = [photo.answer for photo in observed]
            shifts[name] = Shift(
                photos=len(observed),
                detection=detect(values) if len(values) >= LEAST_PHOTOS else None,
                strongest=Strongest(strongest, far[strongest]),
                accuracy_estimated=float(np.mean([answer.probability for answer in answers])),
                accuracy=_share([photo.right for photo in observed]),
                unfamiliar=_share([bool(answer.unfamiliar) for answer in answers]),
                unfamiliar_or_uncertain=_share([answer.unfamiliar or answer.uncertain for answer in answers]),
            )
    return Shifts(
        model=Model.of(handler.artifact),
        runs=runs,
        reference_photos=of_reference,
        window=min(windows.WINDOW, len(pool) - of_reference),
        false_alarms=alarms,
        moved=moved,
        kinds=shifts,
    )


def _share(flags: list[bool]) -> intervals.Figure:
    return intervals.wilson(sum(flags), len(flags))


def _observe_strictly(
    handler: ImageClassifierHandler, photos: list[tuple[Path, str]], change: str, title: str
) -> list[Observed]:
    found = []
    for one in _observe_all(handler, photos, change, title):
        if isinstance(one, ImageError):
            raise one
        found.append(one)
    return found


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

    return map_on_cores(observe, photos, title)


def as_markdown(found: Shifts) -> str:
    """The study as tables."""
    alarms = found.false_alarms
    about = (
        f"{found.model.name} {found.model.version}; {found.runs} runs a row, each with a reference of "
        f"{found.reference_photos} photos and a window of {found.window}, no photo in two of them; a look "
        f"after every {windows.EVERY} photos. Intervals are at 95 %; ranges hold 90 % of the runs."
    )
    alone = (
        "quantity",
        "false alarms, share of runs",
        "moved by a standard deviation, until drifted",
        "noticed",
    )
    changes = (
        "change",
        "strongest quantity",
        "distance",
        "until drifted",
        "noticed",
        "mean confidence",
        "accuracy",
    )
    lines = [
        about,
        "",
        "## Without a change",
        "",
        f"| {alarms.photos} photos a run, all quantities together | share |",
        "| --- | --- |",
        f"| looks at which a quantity had drifted | {_percent(alarms.per_look)} |",
        f"| runs in which one had drifted at any look | {_percent(alarms.per_run)} |",
        f"| runs with an alert: 15 minutes, ten photos per minute | {_percent(alarms.alerts_per_run)} |",
        "",
        "## One quantity alone",
        "",
        f"| {' | '.join(alone)} |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name.replace('_', ' ')} | {_percent(alarms.by_quantity[name])} | {_photos(one)} | "
            f"{_percent(one.detected)} |"
            for name, one in found.moved.items()
        ),
        "",
        "## Changes of the photos",
        "",
        f"| {' | '.join(changes)} | unfamiliar |",
        "| --- " * 8 + "|",
    ]
    return "\n".join([*lines, *(_row(name, shift) for name, shift in found.kinds.items())])


def _row(name: str, shift: Shift) -> str:
    cells = [
        f"{name} (n={shift.photos})",
        shift.strongest.quantity.replace("_", " "),
        f"{shift.strongest.distance:.2f}",
        _photos(shift.detection) if shift.detection else "",
        _percent(shift.detection.detected) if shift.detection else "",
        f"{shift.accuracy_estimated:.2%}",
        "" if name == STRANGERS else f"{shift.accuracy.value:.2%}",
        f"{shift.unfamiliar.value:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def _percent(figure: intervals.Figure) -> str:
    return f"{figure.value:.1%} [{figure.low:.1%}, {figure.high:.1%}]"


def _photos(found: Detection) -> str:
    """Median and range of the photos until the alarm."""
    if found.median is None:
        return "not in half of the runs"
    high = "never" if found.high is None else f"{found.high:g}"
    return f"{found.median:g} ({found.low:g} to {high})"


def main(options: argparse.Namespace) -> int:
    """Run the study and write it; return 0."""
    if options.labelled:
        photos = find_labelled(options.labelled)
        changed_photos, others = photos[::2], [path for path, _ in photos[1::2]]
    else:
        validation, test = (
            labelled(read_split(options.manifest, split).sort_values("sha256"), options.raw)
            for split in ("validation", "test")
        )
        changed_photos = validation[:_CHANGED]
        others = [path for path, _ in (*validation[_CHANGED:], *test)]  # of test no label is looked at
    strangers = find_photos(options.strangers) if options.strangers else []
    handler = load_handler(options.model)
    known, _ = read_reference(options.model, handler.artifact)
    of_reference = known.photos if known else _OF_REFERENCE
    found = study(handler, changed_photos[:_CHANGED], others, strangers, of_reference, options.runs)
    text = as_markdown(found)
    write_json(options.out / "shifts.json", found)
    write_text(options.out / "table.md", text + "\n")
    print(text)
    return 0
