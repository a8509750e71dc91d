"""`python -m evaluation release`: copy the evaluated artefact to `models/release/`, if it passes.

Only the evaluated file is released: the sha256 in the metrics must be the artefact's. Card and figures are
stored next to the model, where a person can read them, and `docs/model-card.md` is written from them. An int8
artefact is released as `model-int8.pt`, alongside the fp32 one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from common.errors import UserError
from common.files import atomic_folder, write_json
from evaluation.artefact.results import Offline
from evaluation.figures import gates, intervals
from evaluation.release import card as model_card
from serving.contract import artifact

_MODEL: Final = Path("models/model.pt")
_METRICS: Final = Path("reports/evaluation/metrics.json")
_SUMMARY: Final = Path("data/prepared/summary.json")
_SLICES: Final = Path("build/slices/slices.json")
_MAX_BYTES: Final = 16_000_000  # it is committed to the repository


class ReleaseError(UserError):
    """There is nothing to release; the text names what is missing and the next step."""


def judge(loaded: artifact.Artifact, size_bytes: int) -> list[gates.Verdict]:
    """Judge the stored evaluation by the `offline` gates, and check that it is of this artefact.

    Raises:
        ReleaseError: the artefact was not evaluated.
        GateError: the gates cannot be used.
    """
    limits = gates.read_gates("offline", Offline)
    try:
        result = intervals.decode(_METRICS.read_bytes(), Offline)
    except FileNotFoundError as error:
        raise ReleaseError(f"There is no {_METRICS}. Run make train first.") from error
    except ValueError as error:
        raise ReleaseError(
            f"{_METRICS} is not an evaluation: {error}. Evaluate again: make evaluate."
        ) from error
    same = result.model.sha256 == loaded.sha256
    return [
        *limits.judge(result),
        gates.Verdict("same_artefact", same, f"the figures are of {'this' if same else 'another'} artefact"),
        gates.Verdict(
            "size_bytes_max", size_bytes <= _MAX_BYTES, f"{size_bytes} bytes, at most {_MAX_BYTES}"
        ),
    ]


def release(loaded: artifact.Artifact, to: Path) -> Path:
    """Copy the artefact with its card and figures, replacing `to` atomically; return the model's path."""
    suffix = "" if loaded.card.precision == "fp32" else f"-{loaded.card.precision}"
    files = {_MODEL: f"model{suffix}.pt", _METRICS: f"metrics{suffix}.json"}
    optional = {_SUMMARY: "data.json", _SLICES: "slices.json"}
    files |= {path: name for path, name in optional.items() if path.exists()}
    with atomic_folder(to) as folder:
        if to.exists():
            shutil.copytree(to, folder, dirs_exist_ok=True)
        for path, name in files.items():
            shutil.copyfile(path, folder / name)
        write_json(folder / f"card{suffix}.json", loaded.card)
    return to / files[_MODEL]


def main(options: argparse.Namespace) -> int:
    """Judge and release; return 0, or 1 if a gate or check fails."""
    del options
    if not _MODEL.exists():
        raise ReleaseError(f"There is no {_MODEL}. Run make train first.")
    loaded = artifact.read(_MODEL)
    verdicts = judge(loaded, _MODEL.stat().st_size)
    print(gates.as_text(verdicts))
    if not all(verdict.passed for verdict in verdicts):
        print(f"Not released, because a check failed; {model_card.RELEASE} is unchanged.", file=sys.stderr)
        return 1
    final = release(loaded, model_card.RELEASE)
    if (model_card.RELEASE / "card.json").exists():
        model_card.write()
    print(f"Released {loaded.card.name} {loaded.card.version}. Serve it: make serve MODEL={final}")
    return 0
