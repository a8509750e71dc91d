"""`python -m evaluation release`: measure the candidate on the test split, and release it if it passes.

The released files are the candidate's with another card: its metrics are those of the test split, which
nothing before has looked at. The ONNX file must answer as the TorchScript file does. The int8 file is
measured and judged by itself, and left out if it fails. The accuracy on photos of production, if there are
any, is measured and not judged. Figures and slices are stored next to them, and `docs/model-card.md` is
written from these.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from common.errors import UserError
from common.files import atomic_folder, write_json
from common.manifest import labelled, read_manifest, read_split
from common.production import PRODUCTION, since
from evaluation.arguments import PHOTOS
from evaluation.artefact import offline, slices
from evaluation.artefact.results import Offline, Slices
from evaluation.figures import gates
from evaluation.ledger import Model
from evaluation.release import card as model_card
from serving.contract import artifact
from serving.contract.artifact import PROBE_TOLERANCE
from serving.contract.card import InProduction, Measured
from serving.runtime.handler import load_handler
from serving.runtime.load import reseal

_MODEL: Final = Path("models/model.pt")
_ONNX: Final = Path("models/model.onnx")
_INT8: Final = Path("models/model-int8.onnx")
_SUMMARY: Final = Path("data/prepared/summary.json")
_FETCHED: Final = Path("data/fetch.json")
_OUT: Final = Path("build/release")
_MAX_BYTES: Final = 16_000_000  # each is committed to the repository


class ReleaseError(UserError):
    """There is nothing to release; the text names what is missing and the next step."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A measured network in the files that hold it, the first of which was measured."""

    files: list[Path]
    figures: Offline
    slices: Slices
    suffix: str
    """Of the names of its card, figures and slices."""


def judge(limits: gates.Gates[Offline], figures: Offline, files: list[Path]) -> list[gates.Verdict]:
    """Judge the candidate's figures on the test split, and its size."""
    size_bytes = max(path.stat().st_size for path in files)
    fits = gates.Outcome.PASS if size_bytes <= _MAX_BYTES else gates.Outcome.FAIL
    size = gates.Verdict("size_bytes_max", fits, f"{size_bytes} bytes, at most {_MAX_BYTES}")
    return [*limits.judge(figures), size]


def release(candidates: list[Candidate], to: Path) -> None:
    """Write artefacts, cards, figures and slices, replacing `to` atomically."""
    with atomic_folder(to) as folder:
        for one in candidates:
            measured = msgspec.convert(one.figures.summary(), dict[str, Measured], from_attributes=True)
            for path in reversed(one.files):
                loaded = artifact.read(path)
                card = msgspec.structs.replace(
                    loaded.card,
                    metrics=measured,
                    measured_on="test",
                    production=one.figures.production or UNSET,
                )
                reseal(path, folder / path.name, card, loaded.probe)
            model = Model.of(artifact.read(folder / one.files[0].name))
            write_json(folder / f"card{one.suffix}.json", card)
            write_json(
                folder / f"metrics{one.suffix}.json", msgspec.structs.replace(one.figures, model=model)
            )
            write_json(folder / f"slices{one.suffix}.json", msgspec.structs.replace(one.slices, model=model))
        if _SUMMARY.exists():
            shutil.copyfile(_SUMMARY, folder / "data.json")


def main(options: argparse.Namespace) -> int:
    """Measure, judge and release; return 0, or 1 if a gate fails, or 3 if the photos cannot tell."""
    limits = gates.read_gates("offline", Offline, options.gates)
    _require_one_export()
    candidates: list[Candidate] = []
    for files, suffix in (([_MODEL, _ONNX], ""), ([_INT8], "-int8")):
        figures = offline.evaluate(files[0], options.manifest, options.raw, "test", _OUT)
        verdicts = judge(limits, figures, files)
        print(f"{', '.join(map(str, files))}:\n{gates.as_text(verdicts)}")
        outcome = gates.overall(verdicts)
        if outcome and not candidates:
            print(f"Not released; {model_card.RELEASE} is unchanged.", file=sys.stderr)
            return outcome
        if outcome:
            print(f"{files[0]} is not released; the others are.", file=sys.stderr)
            continue
        if len(files) > 1:
            _require_same_answers(options)
        found = slices.measure(files[0], options.manifest, options.raw, "test", PHOTOS, options.as_taken)
        figures = msgspec.structs.replace(figures, production=_in_production(files[0], options))
        candidates.append(Candidate(files, figures, found, suffix))
    release(candidates, model_card.RELEASE)
    model_card.write()
    card = artifact.read(_MODEL).card
    print(
        f"Released {card.name} {card.version}. Serve it: make serve MODEL={model_card.RELEASE / _MODEL.name}"
    )
    return 0


def _in_production(model: Path, options: argparse.Namespace) -> InProduction | None:
    """Its accuracy on the photos of production; None without any."""
    if PRODUCTION not in set(read_manifest(options.manifest)["split"]):
        return None
    found = offline.evaluate(model, options.manifest, options.raw, PRODUCTION, _OUT / PRODUCTION)
    return InProduction(**msgspec.structs.asdict(found.accuracy), since=since(_FETCHED))


def _require_one_export() -> None:
    """Pass if the three files are there, and of one export.

    Raises:
        ReleaseError: they are not.
    """
    for path in (_MODEL, _ONNX, _INT8):
        if not path.exists():
            raise ReleaseError(f"There is no {path}. Run make train first.")
    first, second, small = (artifact.read(path).card for path in (_MODEL, _ONNX, _INT8))
    if second != first or small.lineage != first.lineage:
        raise ReleaseError(f"{_MODEL}, {_ONNX} and {_INT8} are not of one export. Run make export.")


def _require_same_answers(options: argparse.Namespace) -> None:
    """Pass if both runtimes give the same answers to the test split's photos.

    Raises:
        ReleaseError: they do not.
    """
    photos = [path for path, _ in labelled(read_split(options.manifest, "test"), options.raw)]
    handlers = [load_handler(path) for path in (_MODEL, _ONNX)]
    labels = handlers[0].artifact.card.labels
    first, second = (offline.score(handler, photos, labels) for handler in handlers)
    change = float(np.abs(first - second).max())
    others = int((first.argmax(1) != second.argmax(1)).sum())
    print(f"{_ONNX} differs from {_MODEL} by {change:.1e} in a probability at most, n={len(photos)}")
    if others or change > PROBE_TOLERANCE["fp32"]:
        raise ReleaseError(
            f"{_ONNX} answers {others} of {len(photos)} photos differently than {_MODEL}, by {change:.4f} at "
            "most. Run make export."
        )
