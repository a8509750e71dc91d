"""The study as a whole: photos in, `build/month` out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from common import files
from common.progress import progress
from evaluation.figures import pictures
from training.photos.manifest import read_manifest
from training.place import Place
from training.study.month.photos import observe
from training.study.month.picture import draw
from training.study.month.results import summarise
from training.study.month.simulation import POLICIES, Chance, Month, simulate
from training.study.month.tables import as_markdown

_MODEL: Final = Path("models/release/model.onnx")


def study(seeds: int, place: Place) -> None:
    """Simulate each policy with each seed; write figures, tables and the picture; print the tables.

    Raises:
        ManifestError: there are no prepared photos.
        ArtifactError: the released model cannot be read.
        PipelineError: it is not of these photos, or has not what the study needs.
    """
    photos = observe(place.root / _MODEL, read_manifest(place), place)
    months: dict[str, list[Month]] = {policy.name: [] for policy in POLICIES}
    with progress("simulate", seeds * len(POLICIES), "months") as bar:
        for seed in range(seeds):
            chance = Chance.draw(len(photos.targets), seed)
            for policy in POLICIES:
                month = simulate(photos, policy, chance)
                months[policy.name].append(month)
                bar.update()
    found = summarise(photos.model, len(photos.targets), months)
    text = as_markdown(found)
    files.write_json(place.month / "month.json", found)
    pictures.save(draw(found), place.month / "month.png")
    files.write_text(place.month / "table.md", text)
    print(text)
