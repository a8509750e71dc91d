"""`python -m evaluation release`: measure the candidate on the test split, and release it if it passes.

The released file is the candidate with another card: its metrics are those of the test split, which nothing
before has looked at. Figures and slices of that file are stored next to it, and `docs/model-card.md` is
written from them. An int8 artefact is released as `model-int8.pt`, alongside the fp32 one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec

from common.errors import UserError
from common.files import atomic_folder, write_json
from evaluation.arguments import PHOTOS
from evaluation.artefact import offline, slices
from evaluation.artefact.results import Model, Offline, Slices
from evaluation.figures import gates
from evaluation.release import card as model_card
from serving.contract import artifact
from serving.contract.card import Measured
from serving.runtime import torchscript

_MODEL: Final = Path("models/model.pt")
_SUMMARY: Final = Path("data/prepared/summary.json")
_OUT: Final = Path("build/release")
_MAX_BYTES: Final = 16_000_000  # it is committed to the repository


class ReleaseError(UserError):
    """There is nothing to release; the text names what is missing and the next step."""


def judge(limits: gates.Gates[Offline], figures: Offline, size_bytes: int) -> list[gates.Verdict]:
    """Judge the candidate's figures on the test split, and its size."""
    fits = gates.Outcome.PASS if size_bytes <= _MAX_BYTES else gates.Outcome.FAIL
    size = gates.Verdict("size_bytes_max", fits, f"{size_bytes} bytes, at most {_MAX_BYTES}")
    return [*limits.judge(figures), size]


def release(figures: Offline, found: Slices, to: Path) -> Path:
    """Write artefact, card, figures and slices, replacing `to` atomically; return the model's path."""
    network, loaded = torchscript.load(_MODEL)
    measured = msgspec.convert(figures.summary(), dict[str, Measured], from_attributes=True)
    card = msgspec.structs.replace(loaded.card, metrics=measured, measured_on="test")
    suffix = "" if card.precision == "fp32" else f"-{card.precision}"
    name = f"model{suffix}.pt"
    with atomic_folder(to) as folder:
        if to.exists():
            shutil.copytree(to, folder, dirs_exist_ok=True)
        torchscript.save(folder / name, network, card, loaded.probe)
        model = Model.of(artifact.read(folder / name))
        write_json(folder / f"card{suffix}.json", card)
        write_json(folder / f"metrics{suffix}.json", msgspec.structs.replace(figures, model=model))
        write_json(folder / f"slices{suffix}.json", msgspec.structs.replace(found, model=model))
        if _SUMMARY.exists():
            shutil.copyfile(_SUMMARY, folder / "data.json")
    return to / name


def main(options: argparse.Namespace) -> int:
    """Measure, judge and release; return 0, or 1 if a gate fails, or 3 if the photos cannot tell."""
    limits = gates.read_gates("offline", Offline, options.gates)
    if not _MODEL.exists():
        raise ReleaseError(f"There is no {_MODEL}. Run make train first.")
    figures = offline.evaluate(_MODEL, options.manifest, options.raw, "test", _OUT)
    verdicts = judge(limits, figures, _MODEL.stat().st_size)
    print(gates.as_text(verdicts))
    if outcome := gates.overall(verdicts):
        print(f"Not released; {model_card.RELEASE} is unchanged.", file=sys.stderr)
        return outcome
    found = slices.measure(_MODEL, options.manifest, options.raw, "test", PHOTOS, options.as_taken)
    final = release(figures, found, model_card.RELEASE)
    if (model_card.RELEASE / "card.json").exists():
        model_card.write()
    print(f"Released {figures.model.name} {figures.model.version}. Serve it: make serve MODEL={final}")
    return 0
