"""`python -m evaluation drift --url …`: have the photos changed since the model was validated?

Reads the service's latest window (`GET /drift`, or a file that holds what it said) and writes a report: each
quantity's distribution beside that of the validation photos, its distance and its test. Exits 1 if a quantity
has drifted. No label is needed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from matplotlib.figure import Figure

from common.errors import UserError
from evaluation.figures import pages, pictures

ALARM_Z: Final = 6.0
"""Standard normal deviate from which on a difference is no chance, over many windows and quantities."""
ALARM_DISTANCE: Final = 0.15
"""Jensen-Shannon distance from which on a difference is large enough to look at."""
LEAST_PHOTOS: Final = 100
_TIMEOUT_SECONDS: Final = 30.0


class DriftError(UserError):
    """There is no window to judge; the text names the cause and the next step."""


def alarms(distance: float | None, z: float | None) -> bool:
    """Whether a quantity has drifted: surely, and by much. The alert rules say the same."""
    return distance is not None and z is not None and distance > ALARM_DISTANCE and z > ALARM_Z


def read(url: str | None, file: Path | None) -> dict[str, Any]:
    """The window as the service exports it.

    Raises:
        DriftError: it cannot be read, the model has no drift reference, or the window has too few photos.
    """
    if file is not None:
        try:
            window = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DriftError(f"{file} is not what GET /drift says: {error}.") from error
    else:
        key = os.environ.get("SERVING_API_KEY", "")
        try:
            response = httpx.get(
                f"{url}/drift", headers={"X-API-Key": key} if key else {}, timeout=_TIMEOUT_SECONDS
            )
            window = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise DriftError(f"{url}/drift does not answer ({type(error).__name__}).") from error
        if not response.is_success:
            raise DriftError(
                f"{url}/drift answers {response.status_code}. It may want the key: SERVING_API_KEY=…"
            )
    if not isinstance(window, dict) or "quantities" not in window:
        raise DriftError("This is not what GET /drift says: it has no quantities.")
    if not window["quantities"]:
        raise DriftError("The model that is served has no drift reference: export it anew (make export).")
    if window["photos"] < LEAST_PHOTOS:
        raise DriftError(
            f"The window has {window['photos']} photos; it takes {LEAST_PHOTOS} to tell anything."
        )
    return window


def judge(window: dict[str, Any]) -> dict[str, bool]:
    """Which quantities have drifted."""
    return {name: alarms(of["distance"], of["z"]) for name, of in window["quantities"].items()}


def as_markdown(window: dict[str, Any]) -> str:
    """The window for a person or a CI step."""
    drifted = judge(window)
    names = ", ".join(name for name, alarm in drifted.items() if alarm)
    told = (
        f"The latest {window['photos']} photos against {window['reference_photos']} of validation. While the "
        f"calibration holds, {window['estimated_accuracy']:.2%} of the answers are right (mean confidence)."
    )
    lines = [
        f"### {'DRIFT in ' + names if names else 'No drift'}",
        "",
        told,
        "",
        "| quantity | distance | z | |",
        "| --- | --- | --- | --- |",
    ]
    for name, of in window["quantities"].items():
        if of["distance"] is not None:
            mark = "drifted" if drifted[name] else ""
            lines.append(f"| {name.replace('_', ' ')} | {of['distance']:.3f} | {of['z']:+.1f} | {mark} |")
    lines += ["", f"Drifted: distance over {ALARM_DISTANCE} and z over {ALARM_Z:g}."]
    return "\n".join(lines)


def figure(window: dict[str, Any]) -> Figure:
    """Each quantity's share of photos by bin, then and now."""
    quantities = window["quantities"]
    drifted = judge(window)
    columns = 3
    rows = math.ceil(len(quantities) / columns)
    drawn = pictures.new_figure(4.2 * columns, 2.6 * rows)
    panels = np.atleast_1d(drawn.subplots(rows, columns)).ravel()
    for axes in panels[len(quantities) :]:
        axes.axis("off")
    for axes, (name, of) in zip(panels, quantities.items(), strict=False):
        places = np.arange(len(of["reference"]))
        for offset, key, colour in ((-0.2, "reference", pictures.GREY), (0.2, "window", pictures.ORANGE)):
            counts = np.array(of[key], float)
            axes.bar(places + offset, counts / max(counts.sum(), 1), 0.4, color=colour)
        edges = [f"{edge:.3g}" for edge in of["edges"]]
        axes.set_xticks(places[:-1] + 0.5, edges, rotation=45, fontsize=7, ha="right")
        mark = " DRIFTED" if drifted[name] else ""
        shown = "" if of["distance"] is None else f": distance {of['distance']:.2f}"
        axes.set_title(f"{name.replace('_', ' ')}{shown}{mark}", fontsize=9)
        axes.set_ylabel("share", fontsize=8)
    handles = [panels[0].patches[0], panels[0].patches[-1]]
    drawn.legend(handles, ["validation", "now"], loc="outside upper right", ncols=2)
    return drawn


def main(arguments: list[str]) -> int:
    """Judge one window; 0 without drift, 1 with, 2 if it cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m evaluation drift", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="address of the service, as http://127.0.0.1:8000")
    source.add_argument("--file", type=Path, help="what GET /drift said, as JSON")
    parser.add_argument("--out", type=Path, default=Path("reports/drift"))
    options = parser.parse_args(arguments)
    try:
        window = read(options.url and options.url.rstrip("/"), options.file)
    except DriftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary = as_markdown(window)
    options.out.mkdir(parents=True, exist_ok=True)
    picture = pictures.save(figure(window), options.out / "drift.png")
    (options.out / "summary.md").write_text(summary + "\n", encoding="utf-8")
    (options.out / "window.json").write_text(json.dumps(window, indent=2) + "\n", encoding="utf-8")
    drifted = judge(window)
    text = pages.render(
        "drift.html", window=window, drifted=drifted, picture=pages.picture(picture),
        distance=ALARM_DISTANCE, z=ALARM_Z,
    )  # fmt: skip
    (options.out / "report.html").write_text(text, encoding="utf-8")
    print(summary)
    print(f"\n{options.out / 'report.html'} has the distributions.")
    return int(any(drifted.values()))
