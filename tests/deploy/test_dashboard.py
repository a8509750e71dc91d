"""The dashboard can be drawn without Grafana, whatever Prometheus returns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.rehearsal import dashboard
from evaluation.figures import pictures
from tests.tiny import ROOT

BOARD = json.loads((ROOT / "deploy/monitoring/grafana/dashboards/classifier.json").read_text())
LINE = [(float(second), float("nan") if second == -50 else 0.01 * second + 2) for second in range(-60, 0, 2)]


def panels(series: dict[str, list[tuple[float, float]]], heatmap: dict[str, list[tuple[float, float]]]):
    """Return every panel of the dashboard with these results."""
    return [
        {
            "title": panel["title"],
            "type": panel["type"],
            "unit": panel["fieldConfig"]["defaults"]["unit"],
            "at": panel["gridPos"],
            "series": heatmap if panel["type"] == "heatmap" else series,
        }
        for panel in BOARD["panels"]
    ]


def test_every_panel_is_drawn(tmp_path: Path):
    """In the place of each panel, the pictures with and without data differ."""
    buckets = {str(le): [(t, 10 * le + t % 7) for t, _ in LINE] for le in (0.5, 0.9, 1.0)} | {"+Inf": LINE}
    full = dashboard.draw(panels({"cat": LINE, "dog": LINE}, buckets), tmp_path / "full.png")
    empty = dashboard.draw(panels({}, {}), tmp_path / "empty.png")
    images = [np.asarray(Image.open(path).convert("L"), float) for path in (full, empty)]
    assert images[0].shape == images[1].shape
    height, width = images[0].shape
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in BOARD["panels"])
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        place = np.s_[
            int(height * at["y"] / rows) : int(height * (at["y"] + at["h"]) / rows),
            int(width * at["x"] / 24) : int(width * (at["x"] + at["w"]) / 24),
        ]
        assert np.abs(images[0][place] - images[1][place]).mean() > 0.3, panel["title"]


@pytest.mark.parametrize("unit", ["s", "bytes", "percentunit"])
def test_units_are_converted_for_reading(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Seconds become milliseconds, bytes megabytes, ratios percentages."""
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure) or path)
    panel = {"title": "A", "type": "timeseries", "unit": unit, "at": {"x": 0, "y": 0, "w": 24, "h": 4}}
    dashboard.draw([panel | {"series": {"one": [(-1.0, 0.5)]}}], tmp_path / "x.png")
    (axes,) = drawn[0].axes
    factor = {"s": 1000, "bytes": 1e-6, "percentunit": 100}[unit]
    assert axes.lines[0].get_ydata() == pytest.approx([0.5 * factor])
    assert {"s": "(ms)", "bytes": "(MB)", "percentunit": "(%)"}[unit] in axes.get_title(loc="left")
