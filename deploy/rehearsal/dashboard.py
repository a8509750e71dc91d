"""`python -m deploy.rehearsal.dashboard PANELS.json OUT.png`: draw the dashboard's panels with data.

For the documentation and CI, which have no Grafana: `make rehearse` sends each query of
deploy/monitoring/grafana/dashboards to the real Prometheus and saves the results to PANELS.json; this module
draws them in the dashboard's layout.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from evaluation.figures import pictures

_COLUMNS: Final = 24
_INCHES: Final = 0.42  # a row of the grid
_UNITS: Final = {
    "s": (1000.0, "ms"),
    "reqps": (1.0, "per second"),
    "percentunit": (100.0, "%"),
    "bytes": (1e-6, "MB"),
    "pixel": (1.0, "pixels"),
}


def draw(panels: list[dict[str, Any]], out: Path) -> Path:
    """Draw every panel; return the path of the picture."""
    rows = max(panel["at"]["y"] + panel["at"]["h"] for panel in panels)
    figure = pictures.new_figure(15.0, _INCHES * rows)
    grid = figure.add_gridspec(rows, _COLUMNS)
    for panel in panels:
        at = panel["at"]
        axes = figure.add_subplot(grid[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]])
        factor, unit = _UNITS.get(panel["unit"], (1.0, ""))
        axes.set_title(panel["title"] + (f" ({unit})" if unit else ""), fontsize=9, loc="left")
        series = {
            name: [(moment, factor * value) for moment, value in points if math.isfinite(value)]
            for name, points in panel["series"].items()
        }
        series = {name: points for name, points in series.items() if points}
        _KINDS.get(panel["type"], _lines)(axes, series)
        if not series:
            axes.text(0.02, 0.5, "no data", va="center", color=pictures.GREY, transform=axes.transAxes)
    return pictures.save(figure, out)


def _number(axes: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
    """Write the last value of the latest series, or its name if the value is a constant 1."""
    axes.axis("off")
    for name, points in sorted(series.items(), key=lambda item: item[1][-1][0])[-1:]:
        text = name if name and points[-1][1] == 1 and name != "ready" else f"{points[-1][1]:.3g}"
        axes.text(0, 0.5, text, fontsize=18 if len(text) < 8 else 9, va="center", color=pictures.BLUE)


def _lines(axes: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
    """Plot the values over the seconds before now."""
    for (name, points), colour in zip(series.items(), pictures.SERIES * 3, strict=False):
        axes.plot(*zip(*points, strict=True), label=name, color=colour, linewidth=1.2)
    top = max((value for points in series.values() for _, value in points), default=1.0) or 1.0
    axes.set_ylim(-0.02 * top, 1.15 * top)
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, alpha=0.3)
    if any(series):
        axes.legend(fontsize=6, loc="upper left", ncols=2 if len(series) > 4 else 1, framealpha=0.7)


def _heatmap(axes: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
    """Colour each bucket by its number of photos; the buckets arrive cumulative."""
    if not series:
        return
    buckets = sorted(series, key=float)
    moments = sorted({moment for points in series.values() for moment, _ in points})
    totals = np.zeros((len(buckets) + 1, len(moments)))
    for row, bucket in enumerate(buckets, 1):
        found = dict(series[bucket])
        totals[row] = [found.get(moment, 0.0) for moment in moments]
    axes.pcolormesh(
        moments, range(len(buckets)), np.diff(totals, axis=0).clip(0), cmap="Blues", shading="nearest"
    )
    axes.set_yticks(range(len(buckets)), buckets, fontsize=6)
    axes.tick_params(axis="x", labelsize=7)


_KINDS: Final = {"stat": _number, "heatmap": _heatmap}


if __name__ == "__main__":
    drawn = draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
    Image.open(drawn).quantize(64).save(drawn, optimize=True)  # lines need no more colours
