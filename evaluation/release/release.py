"""`python -m evaluation release`: put the evaluated artefact in `models/release/`, if it passes.

What is released is exactly what was evaluated: the sha256 in the metrics must be the artefact's.
Beside the model stand its card and its figures, so that a person can read them in the repository, and
`docs/model-card.md` is written from them.
An int8 artefact is released as `model-int8.pt`, beside the fp32 one and not in its place.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec

from evaluation.artefact.offline import KNOWN_GATES
from evaluation.release import card as model_card
from evaluation.release import gates
from serving.contract import artifact
from serving.contract.errors import ArtifactError

_MODEL: Final = Path("models/model.pt")
_METRICS: Final = Path("reports/evaluation/metrics.json")
_RELEASE: Final = Path("models/release")
_SUMMARY: Final = Path("data/prepared/summary.json")
_SLICES: Final = Path("build/slices/slices.json")
_MAX_BYTES: Final = 16_000_000  # it lives in the repository


def release(model: Path = _MODEL, metrics: Path = _METRICS, to: Path = _RELEASE) -> int:
    """Copy the artefact with its card and metrics; return 0, or 1 if a gate or check fails."""
    loaded = artifact.read(model)
    figures = json.loads(metrics.read_text(encoding="utf-8"))
    verdicts = gates.judge(figures, gates.read_gates("offline", KNOWN_GATES), KNOWN_GATES)
    size = model.stat().st_size
    verdicts += [
        gates.Verdict("same_artefact", figures["model"]["sha256"] == loaded.sha256, "evaluated is released"),
        gates.Verdict("size_bytes_max", size <= _MAX_BYTES, f"{size} bytes, at most {_MAX_BYTES}"),
    ]
    print(gates.show(verdicts))
    if not all(verdict.passed for verdict in verdicts):
        print("not released: models/release is as it was.", file=sys.stderr)
        return 1
    to.mkdir(parents=True, exist_ok=True)
    suffix = "" if loaded.card.precision == "fp32" else f"-{loaded.card.precision}"
    final = to / f"model{suffix}.pt"
    partial = final.with_name(final.name + ".partial")
    shutil.copyfile(model, partial)
    partial.replace(final)
    card = msgspec.json.format(msgspec.json.encode(loaded.card), indent=2) + b"\n"
    (to / f"card{suffix}.json").write_bytes(card)
    shutil.copyfile(metrics, to / f"metrics{suffix}.json")
    for path, name in ((_SUMMARY, "data.json"), (_SLICES, "slices.json")):
        if path.exists():
            shutil.copyfile(path, to / name)
    if (to / "card.json").exists():
        model_card.write(to)
    print(f"released {loaded.card.name} {loaded.card.version}: make serve MODEL={final}")
    return 0


def main(arguments: list[str]) -> int:
    """Release; 2 if there is nothing to release."""
    argparse.ArgumentParser(prog="python -m evaluation release", description=__doc__).parse_args(arguments)
    try:
        return release()
    except FileNotFoundError as error:
        print(f"error: there is no {error.filename}: make train first.", file=sys.stderr)
    except (ArtifactError, gates.GateError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 2
