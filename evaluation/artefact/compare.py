"""`python -m evaluation compare`: may the candidate take the champion's place?

Both artefacts answer the same photos, each photo one after the other, so that the photos' difficulty and the
machine's mood cancel out. Accuracy is compared by McNemar's test and a bound on the difference, on all photos
and on each kind of them; calibration, latency and size by limits. Writes `reports/compare/` and exits 1 if a
gate of `configs/gates.yaml` fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from common.cores import map_on_cores
from common.errors import UserError
from common.photos import PhotosError, find_labelled
from evaluation.artefact.slices import properties, slices_of
from evaluation.figures import metrics, pictures
from evaluation.release import gates
from serving.contract.errors import ServingError
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.runtime.torchscript import one_thread

KNOWN_GATES: Final = {
    "points_lost_max": "points_lost_at_most",
    "significantly_worse_max": "significantly_worse",
    "slices_worse_max": "slices_worse",
    "ece_max": "candidate.ece.value",
    "log_loss_times_max": "log_loss_times",
    "latency_times_max": "latency_times.median",
    "bytes_times_max": "bytes_times",
}
_LEVEL: Final = 0.05
_SHOWN: Final = 20
_LEAST: Final = 50
"""Photos that a slice needs to be judged."""


class CompareError(UserError):
    """The two cannot be compared; the text names the cause and the next step."""


def compare(candidate: Path, champion: Path, photos: list[tuple[Path, str]]) -> dict[str, Any]:
    """All figures of both and of their differences, ready for JSON.

    Raises:
        CompareError: other classes, a label that is none, or a photo that is refused.
        ServingError: an artefact cannot be loaded.
    """
    handlers = [_load(candidate), _load(champion)]
    labels, others = (handler.artifact.card.labels for handler in handlers)
    if others != labels:
        raise CompareError(
            f"The candidate knows {', '.join(labels)}, the champion {', '.join(others)}: "
            "nothing to compare. Put it in the champion's place: make release."
        )
    unknown = {label for _, label in photos} - set(labels)
    if unknown:
        raise CompareError(f"The models know {', '.join(labels)}, and a photo is labelled {min(unknown)!r}.")

    def both(path: Path) -> tuple[list[list[float]], list[float], dict[str, float]]:
        data = path.read_bytes()
        rows, seconds = [], []
        kind: dict[str, float] = {}
        for handler in handlers:
            began = time.perf_counter()
            batch = handler.preprocess([{"body": data}])
            if not len(batch.inputs):
                raise CompareError(f"The handler refuses {path}.")
            rows.append(handler.inference(batch).probabilities[0].tolist())
            seconds.append(time.perf_counter() - began)
            kind = kind or properties(data, batch.inputs[0].numpy())
        return rows, seconds, kind

    seen = map_on_cores(both, [path for path, _ in photos], "compare", initializer=one_thread)
    targets = np.array([labels.index(label) for _, label in photos])
    probabilities = np.array([rows for rows, _, _ in seen])  # [N,2,K]
    seconds = np.array([pair for _, pair, _ in seen])  # [N,2]
    right = probabilities.argmax(2) == targets[:, None]  # [N,2]
    paired = metrics.paired_difference(right[:, 0], right[:, 1])
    p_value = metrics.mcnemar(right[:, 0], right[:, 1])
    figures: dict[str, Any] = {
        name: {
            "name": handler.artifact.card.name,
            "version": handler.artifact.card.version,
            "sha256": handler.artifact.sha256,
            "bytes": path.stat().st_size,
        }
        | metrics.evaluate(probabilities[:, side], targets, labels)
        for side, (name, path, handler) in enumerate(
            zip(("candidate", "champion"), (candidate, champion), handlers, strict=True)
        )
    }
    slices = _slices(pd.DataFrame([kind for _, _, kind in seen]), right)
    ratio = seconds[:, 0] / seconds[:, 1]
    return figures | {
        "photos": len(photos),
        "only_candidate_right": int((right[:, 0] & ~right[:, 1]).sum()),
        "only_champion_right": int((~right[:, 0] & right[:, 1]).sum()),
        "accuracy_difference": paired.as_dict(),
        "points_lost_at_most": -100 * paired.low,
        "mcnemar_p": p_value,
        "significantly_worse": float(p_value < _LEVEL and paired.value < 0),
        "slices": slices,
        "slices_worse": sum(row["worse"] for row in slices),
        "log_loss_times": figures["candidate"]["log_loss"]["value"]
        / figures["champion"]["log_loss"]["value"],
        "latency_times": {"median": float(np.median(ratio)), "n": len(ratio)},
        "bytes_times": figures["candidate"]["bytes"] / figures["champion"]["bytes"],
        "lost": [
            {
                "path": str(photos[i][0]),
                "label": photos[i][1],
                "answer": labels[int(probabilities[i, 0].argmax())],
                "probability": float(probabilities[i, 0].max()),
            }
            for i in np.flatnonzero(~right[:, 0] & right[:, 1])
        ],
    }


def _load(path: Path) -> ImageClassifierHandler:
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(path))
    return handler


def _slices(kinds: pd.DataFrame, right: metrics.Flags) -> list[dict[str, Any]]:
    """McNemar's test on each slice of enough photos, at a level divided by their number (Bonferroni)."""
    judged = [(name, text, inside) for name, text, inside in slices_of(kinds) if inside.sum() >= _LEAST]
    rows = []
    for name, text, inside in judged:
        new, old = right[inside.to_numpy()].T
        p_value = metrics.mcnemar(new, old)
        rows.append(
            {
                "property": name,
                "slice": text,
                "n": int(inside.sum()),
                "candidate": float(new.mean()),
                "champion": float(old.mean()),
                "p": p_value,
                "worse": bool(p_value < _LEVEL / len(judged) and new.mean() < old.mean()),
            }
        )
    return rows


def as_markdown(figures: dict[str, Any], verdicts: list[gates.Verdict]) -> str:
    """The verdict with its reasons, for a person or a CI step."""
    new, old, gap = figures["candidate"], figures["champion"], figures["accuracy_difference"]
    passed = all(verdict.passed for verdict in verdicts)
    lines = [
        f"### {new['version']} against {old['version']}: {'may be promoted' if passed else 'REFUSED'}",
        "",
        "| figure | candidate | champion |",
        "| --- | --- | --- |",
    ]
    told = (
        f"Of {figures['photos']} photos only the candidate is right on "
        f"{figures['only_candidate_right']}, only the champion on {figures['only_champion_right']}: "
        f"McNemar's p = {figures['mcnemar_p']:.3f}; the "
        f"difference is between {100 * gap['low']:+.2f} and {100 * gap['high']:+.2f} points. A photo takes "
        f"{figures['latency_times']['median']:.2f} times the champion's time (median of paired ratios)."
    )
    for name in ("accuracy", "log_loss", "ece", "roc_auc"):
        cells = [f"{metrics.show(side[name])[0]} [{metrics.show(side[name])[1]}]" for side in (new, old)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        f"| bytes | {new['bytes']} | {old['bytes']} |",
        "",
        told,
    ]
    worse = [row for row in figures["slices"] if row["worse"]]
    lines += [
        f"Worse on {row['property']} {row['slice']}: {row['candidate']:.2%} against {row['champion']:.2%}, "
        f"n={row['n']}, p = {row['p']:.1e}."
        for row in worse
    ]
    return "\n".join([*lines, "", "```", gates.show(verdicts), "```"])


def _from_manifest(manifest: Path, raw: Path) -> list[tuple[Path, str]]:
    if not manifest.exists():
        raise CompareError(
            f"There is no manifest at {manifest}. Prepare the photos (make data), or name some: --labelled."
        )
    table = pd.read_csv(manifest)
    table = table[table["split"] == "test"]
    return [(raw / path, label) for path, label in zip(table["path"], table["label"], strict=True)]


def main(arguments: list[str]) -> int:
    """Compare and judge; return 0 if every gate passes, 1 if one fails, 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m evaluation compare", description=__doc__)
    parser.add_argument("--candidate", type=Path, default=Path("models/model.pt"))
    parser.add_argument("--champion", type=Path, default=Path("models/release/model.pt"))
    parser.add_argument("--labelled", type=Path, help="folder or CSV; else the manifest's test split")
    parser.add_argument("--manifest", type=Path, default=Path("data/prepared/manifest.csv"))
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--out", type=Path, default=Path("reports/compare"))
    parser.add_argument("--gates", type=Path, default=gates.GATES)
    options = parser.parse_args(arguments)
    try:
        limits = gates.read_gates("promotion", KNOWN_GATES, options.gates)
        photos = (
            find_labelled(options.labelled)
            if options.labelled
            else _from_manifest(options.manifest, options.raw)
        )
        figures = compare(options.candidate, options.champion, photos)
    except (CompareError, PhotosError, ServingError, gates.GateError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written.", file=sys.stderr)
        return 130
    verdicts = gates.judge(figures, limits, KNOWN_GATES)
    summary = as_markdown(figures, verdicts)
    options.out.mkdir(parents=True, exist_ok=True)
    content = figures | {"gates": {verdict.gate: verdict.passed for verdict in verdicts}}
    (options.out / "compare.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (options.out / "summary.md").write_text(summary + "\n", encoding="utf-8")
    if figures["lost"]:
        rows = [
            (Path(row["path"]), f"{row['answer']} {row['probability']:.1%}\nlabelled {row['label']}")
            for row in figures["lost"]
        ]
        title = f"Right by the champion, wrong by the candidate: {len(rows)} of {figures['photos']}"
        pictures.save(pictures.thumbnails(rows[:_SHOWN], title), options.out / "lost.png")
    print(summary)
    return 0 if all(verdict.passed for verdict in verdicts) else 1
