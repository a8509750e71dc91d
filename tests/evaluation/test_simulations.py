"""The simulations of coverage and of the gates' error rates find what is known."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.artefact import rates
from evaluation.figures import coverage, intervals
from tests import redness
from tests.pictures import encode


def test_the_coverage_of_a_known_interval_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Wilson's interval holds in about 95 %, one that is never right in none, one of everything in all."""
    monkeypatch.setattr(
        coverage,
        "FIGURES",
        {
            "accuracy (Wilson)": coverage.FIGURES["accuracy, recall and other shares (Wilson)"],
            "accuracy, never": lambda _: intervals.Figure(0.5, 0.5, 0.5, 1),
            "accuracy, always": lambda _: intervals.Figure(0.5, 0.0, 1.0, 1),
        },
    )
    assert main(["intervals", "--sets", "300", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "intervals.json").read_text())["rows"]
    held = {(row["figure"], row["n"]): row["held"]["value"] for row in rows}
    assert 0.92 <= held["accuracy (Wilson)", 2330] <= 0.99
    assert held["accuracy, never", 200] == 0
    assert held["accuracy, always", 200] == 1
    assert "| accuracy, never | 0.99" in (tmp_path / "table.md").read_text()


def test_the_drawn_population_is_calibrated_and_the_second_model_worse():
    """Confidence is accuracy; the second model loses the share of photos that it says."""
    found = coverage.draw(200_000, np.random.default_rng(1))
    right, other = coverage._rights(found)
    assert right.mean() == pytest.approx(found[0].max(1).mean(), abs=0.001)
    assert right.mean() - other.mean() == pytest.approx(coverage._LOST, abs=0.0005)
    assert np.allclose(found[0].sum(1), 1)


@pytest.mark.parametrize("figure", coverage.FIGURES)
def test_every_published_interval_holds_at_the_size_of_the_test_split(figure: str):
    """In at least 50 of 60 sets of 2,330 photos; a coverage of 95 % fails this once in a thousand times."""
    population = coverage.draw(300_000, np.random.default_rng(0))
    truth = coverage._truth(figure, population)
    found = [coverage.FIGURES[figure](coverage.draw(2330, np.random.default_rng((7, k)))) for k in range(60)]
    assert sum(one.low <= truth <= one.high for one in found) >= 50


def test_right_and_wrong_models_are_told_apart(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """Swapped labels fail always; another resize of plain pictures is seen only by the comparison."""
    rows = []
    for label, channel in (("cat", 0), ("dog", 2)):
        for number in range(110):
            path = Path("data/raw", label, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((60, 80, 3), 20 + number, np.uint8)
            pixels[..., channel] += 60
            path.write_bytes(encode(Image.fromarray(pixels), "PNG"))
            rows.append((f"{label}/{number}.png", label, "validation", f"{label}{number}"))
    Path("data/prepared").mkdir()
    table = pd.DataFrame(rows, columns=["path", "label", "split", "sha256"])
    table.to_csv("data/prepared/manifest.csv", index=False)
    redness.write(workplace / "model.pt")
    monkeypatch.setattr(rates, "SIZES", (50, 200))
    assert main(["rates", "--model", "model.pt", "--draws", "20", "--out", "out"]) == 0
    found = {
        (row["model"], row["gates"], row["n"]): (row["passes"]["value"], row["fails"]["value"])
        for row in json.loads(Path("out/rates.json").read_text())["rows"]
    }
    compared = "live, compared with the artefact"
    assert found["the model itself", "live", 50] == (0, 0), "50 photos are too few to tell"
    assert found["the model itself", compared, 200] == (1, 0)
    assert found["swapped labels", "live", 50] == (0, 1)
    assert found["another resize (centre crop, nearest neighbour)", compared, 50] == (0, 1), "another file"
    assert "| the model itself | 100.00% | 0.0 / 0.0 | 100.0 / 0.0 |" in Path("out/table.md").read_text()
    assert msgspec.json.decode(Path("out/rates.json").read_bytes())["draws"] == 20
