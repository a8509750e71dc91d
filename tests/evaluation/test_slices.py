"""Slices and corruptions measure what they claim to measure."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from evaluation.__main__ import main
from evaluation.artefact import slices
from evaluation.artefact.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from evaluation.artefact.properties import EDGES, properties
from evaluation.artefact.slices import by_slice
from tests.pictures import encode, scene
from tests.tiny import SIDE


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_their_strength(name: str):
    """The same seed gives the same pixels; each strength is further from the photo; the shape stays."""
    pixels = np.asarray(scene(64, 64)).transpose(2, 0, 1)
    changed = [corrupt(pixels, name, strength, seed=4) for strength in STRENGTHS]
    assert all(image.shape == pixels.shape and image.dtype == np.uint8 for image in changed)
    assert np.array_equal(changed[2], corrupt(pixels, name, 3, seed=4))
    distances = [np.abs(image.astype(float) - pixels).mean() for image in changed]
    assert distances[0] > 0
    assert distances == sorted(distances)


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 97])
def test_the_jpeg_quality_is_read_from_the_file(quality: int):
    """Within two points of the quality given to the encoder."""
    data = encode(scene(), quality=quality)
    found = properties(data, np.zeros((3, 8, 8), np.uint8))["JPEG quality"]
    assert found == pytest.approx(quality, abs=2)
    assert np.isnan(properties(encode(scene(), "PNG"), np.zeros((3, 8, 8), np.uint8))["JPEG quality"])


def test_properties_distinguish_photos():
    """Bright from dark, grey from coloured, sharp from flat."""
    data, noise = encode(scene(300, 200)), np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    dark, light = (properties(data, np.full((3, 64, 64), level, np.uint8)) for level in (20, 220))
    busy = properties(data, noise)
    assert dark["brightness"] == pytest.approx(20 / 255)
    assert light["brightness"] == pytest.approx(220 / 255)
    assert dark["saturation"] == 0 < busy["saturation"]
    assert dark["sharpness"] == 0 < busy["sharpness"]
    assert (dark["longest side, pixels"], dark["long side over short"]) == (300, 1.5)


def test_every_photo_is_in_one_slice_of_each_property():
    """Including values on a bound."""
    values = {name: [edges[0], edges[0] - 1e-6, edges[-1] + 1] for name, edges in EDGES.items()}
    table = pd.DataFrame(values).assign(right=[True, False, True])
    rows = pd.DataFrame(map(msgspec.structs.asdict, by_slice(table)))
    assert (rows.groupby("property")["n"].sum() == 3).all()
    first = rows[(rows["property"] == "brightness") & (rows["slice"] == "under 0.3")].iloc[0]
    assert (first["value"], first["n"]) == (0, 1)


def test_the_report_is_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a split of drawn photos: JSON and both pictures."""
    monkeypatch.setattr(slices, "LEAST", 2)
    monkeypatch.setattr(slices, "CORRUPTIONS", {n: CORRUPTIONS[n] for n in ("jpeg", "darkness")})
    (tmp_path / "cat").mkdir()
    rows = []
    for number in range(4):
        name = f"cat/{number}.jpg"
        (tmp_path / name).write_bytes(encode(scene(SIDE + 40 * number, SIDE)))
        rows.append((name, "cat", "validation" if number else "train", str(number)))
    manifest = tmp_path / "manifest.csv"
    pd.DataFrame(rows, columns=["path", "label", "split", "sha256"]).to_csv(manifest, index=False)
    out = tmp_path / "out"
    where = ["--model", str(model), "--manifest", str(manifest), "--raw", str(tmp_path), "--out", str(out)]
    assert main(["slices", *where, "--photos", "2"]) == 0
    figures = json.loads((out / "slices.json").read_text())
    assert figures["accuracy"]["n"] == 3
    assert [cell["n"] for cell in figures["corruptions"]["jpeg"]] == [2] * len(STRENGTHS)
    assert figures["weakest"]["n"] >= 2
    assert {path.name for path in out.iterdir()} == {"slices.json", "slices.png", "corruptions.png"}
    assert main(["slices", *where[:-2], "--out", str(out), "--manifest", str(tmp_path / "none.csv")]) == 2
