"""`python -m evaluation drift --url …`: have the photos changed since the reference was taken?

The service's latest window in (`GET /drift`, or a file with its JSON); each quantity's distribution next to
that of the reference, its distance and its test out. It needs no labels.
"""

from __future__ import annotations

import argparse
import math
from typing import Final

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.errors import UserError
from common.files import write_json, write_text
from evaluation.figures import pages, pictures
from evaluation.service.client import get
from evaluation.service.results import Quantity, Window
from serving.contract.reference import ALARM_DISTANCE, ALARM_Z, LEAST_PHOTOS, alarms

_COLUMNS: Final = 3
_BARS: Final = ((-0.2, "reference", pictures.GREY), (0.2, "window", pictures.ORANGE))
"""Offset in the picture, field of a `Quantity` and colour."""


class DriftError(UserError):
    """There is no window to judge; the text names the cause and the next step."""


def read(content: bytes) -> Window:
    """A window that can be judged, from the JSON of `GET /drift`.

    Raises:
        DriftError: it is something else, the model has no drift reference, or the window has too few photos.
    """
    try:
        window = msgspec.json.decode(content, type=Window)
    except msgspec.DecodeError as error:
        raise DriftError(
            f"This is not the JSON of GET /drift: {error}. Check the address or file."
        ) from error
    if not window.quantities:
        raise DriftError("The served model has no drift reference. Export it again: make export.")
    if window.photos < LEAST_PHOTOS:
        raise DriftError(
            f"The window has {window.photos} photos of the {LEAST_PHOTOS} needed. Try again later."
        )
    return window


def judge(window: Window) -> dict[str, bool]:
    """Which quantities have drifted."""
    return {name: alarms(quantity.distance, quantity.z) for name, quantity in window.quantities.items()}


def as_markdown(window: Window) -> str:
    """The window for a person or a CI step."""
    drifted = judge(window)
    names = ", ".join(name for name, alarm in drifted.items() if alarm)
    accuracy, error = window.estimated_accuracy or 0.0, window.estimated_accuracy_error or 0.0
    compared = (
        f"The latest {window.photos} photos are compared with {window.reference_photos} others "
        f"({window.reference_source}). As long as calibration holds, {accuracy:.2%} ± {error:.2%} of the "
        f"predictions are right (mean confidence)."
    )
    lines = [
        f"### {'DRIFT in ' + names if names else 'No drift'}",
        "",
        compared,
        "",
        "| quantity | distance | z | |",
        "| --- | --- | --- | --- |",
    ]
    for name, quantity in window.quantities.items():
        if quantity.distance is not None:
            mark = "drifted" if drifted[name] else ""
            lines.append(
                f"| {name.replace('_', ' ')} | {quantity.distance:.3f} | {quantity.z:+.1f} | {mark} |"
            )
    lines += ["", f"Drifted: distance above {ALARM_DISTANCE} and z above {ALARM_Z:g}."]
    return "\n".join(lines)


def figure(window: Window) -> Figure:
    """Each quantity's share of photos per bin, in the reference and now."""
    drifted = judge(window)
    rows = math.ceil(len(window.quantities) / _COLUMNS)
    drawn = pictures.new_figure(4.2 * _COLUMNS, 2.6 * rows)
    panels = np.atleast_1d(drawn.subplots(rows, _COLUMNS)).ravel()
    for axes in panels[len(window.quantities) :]:
        axes.axis("off")
    for axes, (name, quantity) in zip(panels, window.quantities.items(), strict=False):
        _panel(axes, quantity)
        mark = " DRIFTED" if drifted[name] else ""
        shown = "" if quantity.distance is None else f": distance {quantity.distance:.2f}"
        axes.set_title(f"{name.replace('_', ' ')}{shown}{mark}", fontsize=9)
    handles = [panels[0].patches[0], panels[0].patches[-1]]
    drawn.legend(handles, ["reference", "now"], loc="outside upper right", ncols=2)
    return drawn


def _panel(axes: Axes, quantity: Quantity) -> None:
    places = np.arange(len(quantity.reference))
    for offset, name, colour in _BARS:
        counts = np.array(getattr(quantity, name), float)
        axes.bar(places + offset, counts / max(counts.sum(), 1), 0.4, color=colour)
    edges = [
        f"{edge:.3g}" for edge in quantity.edges
    ]  # an atom's two edges look the same, its bin between them
    axes.set_xticks(places[:-1] + 0.5, edges, rotation=45, fontsize=7, ha="right")
    axes.set_ylabel("share", fontsize=8)


def main(options: argparse.Namespace) -> int:
    """Judge one window; return 0 without drift, 1 with."""
    window = read(
        options.file.read_bytes() if options.file else get(options.url.rstrip("/"), "/drift", DriftError)
    )
    summary, drifted = as_markdown(window), judge(window)
    picture = pictures.save(figure(window), options.out / "drift.png")
    page = pages.render(
        "drift.html", window=window, drifted=drifted, picture=pages.picture(picture),
        distance=ALARM_DISTANCE, z=ALARM_Z,
    )  # fmt: skip
    write_text(options.out / "summary.md", summary + "\n")
    write_text(options.out / "report.html", page)
    write_json(options.out / "window.json", window)
    print(summary)
    print(f"\n{options.out / 'report.html'} shows the distributions.")
    return int(any(drifted.values()))
