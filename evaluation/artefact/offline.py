"""`python -m evaluation offline`: the test split through the very handler that serves.

Encoded bytes go in, so decode, preprocessing, artefact and answers are those of production. Writes
`reports/evaluation/` and exits 1 if a gate of `configs/gates.yaml` fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from common.cores import map_on_cores
from common.errors import UserError
from common.labels import LabelsError, correct, read_reviewed
from evaluation.figures import metrics, pictures
from evaluation.release import gates
from serving.contract.answer import Refusal
from serving.contract.errors import ServingError
from serving.runtime.handler import ImageClassifierHandler, LocalContext
from serving.runtime.torchscript import one_thread

KNOWN_GATES: Final = {
    "accuracy_min": "accuracy.value",
    "ece_max": "ece.value",
    "log_loss_max": "log_loss.value",
    "roc_auc_min": "roc_auc.value",
}


class EvaluationError(UserError):
    """The evaluation cannot be made; the text names the cause and the next step."""


def score(handler: ImageClassifierHandler, photos: list[Path], labels: list[str]) -> metrics.Floats:
    """`f64[N,K]`: the handler's probabilities for each photo, in order, on all cores.

    Raises:
        EvaluationError: the handler refuses a photo.
    """

    def compute(path: Path) -> list[float]:
        answer = handler.handle([{"body": path.read_bytes()}])[0]
        if isinstance(answer, Refusal):
            raise EvaluationError(f"The handler refuses {path}: {answer.detail}")
        return [answer.probabilities[label] for label in labels]

    return np.array(map_on_cores(compute, photos, "evaluate", initializer=one_thread))


def evaluate(model: Path, manifest: Path, raw: Path, split: str, out: Path) -> dict[str, Any]:
    """Score one split; write `metrics.json` to `out`, tables and pictures to `out/plots`.

    Raises:
        EvaluationError: no manifest, or its classes are not the model's.
        ServingError: the artefact cannot be loaded or proven.
    """
    if not manifest.exists():
        raise EvaluationError(f"There is no manifest at {manifest}. Prepare the photos first: make data.")
    table = pd.read_csv(manifest)
    table = table[table["split"] == split]
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(model))
    card = handler.artifact.card
    if set(table["label"]) - set(card.labels):
        raise EvaluationError(
            f"The model knows {', '.join(card.labels)}; the manifest has "
            f"{', '.join(sorted(set(table['label'])))}. Train on these photos: make train."
        )
    photos = [raw / name for name in table["path"]]
    targets = np.array([card.labels.index(label) for label in table["label"]])
    probabilities = score(handler, photos, card.labels)
    figures = metrics.evaluate(probabilities, targets, card.labels)
    uncertain = probabilities.max(1) < card.abstain_threshold
    figures["uncertain"] = metrics.wilson(int(uncertain.sum()), len(uncertain)).as_dict()
    figures["accuracy_when_certain"] = metrics.accuracy(
        probabilities[~uncertain], targets[~uncertain]
    ).as_dict()
    audited = correct(table, read_reviewed())
    if not audited["label"].equals(table["label"]):
        figures["audited"] = _audited(audited, table, probabilities, card.labels)
    figures["model"] = {"name": card.name, "version": card.version, "sha256": handler.artifact.sha256}
    figures["mlflow_run_id"] = card.lineage.mlflow_run_id
    _write(out, figures, table, photos, probabilities, targets, card.labels)
    return figures


def _audited(
    audited: pd.DataFrame, table: pd.DataFrame, probabilities: metrics.Floats, labels: list[str]
) -> dict[str, Any]:
    """Accuracy where the reviewed labels count, and how many photos they touch."""
    kept = table.index.isin(audited.index)
    targets = np.array([labels.index(label) for label in audited["label"]])
    return metrics.accuracy(probabilities[kept], targets).as_dict() | {
        "relabelled": int((audited["label"] != table["label"][kept]).sum()),
        "left_out": int((~kept).sum()),
    }


def _write(
    out: Path,
    figures: dict[str, Any],
    table: pd.DataFrame,
    photos: list[Path],
    probabilities: metrics.Floats,
    targets: metrics.Ints,
    labels: list[str],
) -> None:
    plots = out / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    predicted = [labels[k] for k in probabilities.argmax(1)]
    predictions = pd.DataFrame(probabilities.round(6), columns=[f"p_{label}" for label in labels])
    predictions.insert(0, "path", table["path"].to_numpy())
    predictions.insert(1, "actual", table["label"].to_numpy())
    predictions.insert(2, "predicted", predicted)
    predictions.to_csv(plots / "predictions.csv", index=False)
    bins = pd.DataFrame([asdict(b) for b in metrics.reliability(probabilities, targets)])
    bins.to_csv(plots / "reliability.csv", index=False)
    for name, figure in {
        "confusion_matrix": pictures.confusion_matrix(
            metrics.confusion(probabilities, targets), labels, "test split"
        ),
        "reliability": pictures.reliability_diagram(probabilities, targets, "test split"),
        "roc": pictures.roc(probabilities, targets, labels, "ROC, test split"),
        "worst_mistakes": pictures.worst_mistakes(photos, probabilities, targets, labels),
    }.items():
        pictures.save(figure, plots / f"{name}.png")
    partial = out / "metrics.json.partial"  # last, so that its presence means a whole report
    partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / "metrics.json")


def main(arguments: list[str]) -> int:
    """Evaluate and judge; return 0 if every gate passes, 1 if one fails, 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m evaluation offline", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"))
    parser.add_argument("--manifest", type=Path, default=Path("data/prepared/manifest.csv"))
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.add_argument("--out", type=Path, default=Path("reports/evaluation"))
    parser.add_argument("--gates", type=Path, default=gates.GATES)
    parser.add_argument("--report-only", action="store_true", help="exit 0 whatever the gates say")
    options = parser.parse_args(arguments)
    try:
        limits = gates.read_gates("offline", KNOWN_GATES, options.gates)
        figures = evaluate(options.model, options.manifest, options.raw, options.split, options.out)
    except (EvaluationError, LabelsError, ServingError, gates.GateError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written.", file=sys.stderr)
        return 130
    names = ("accuracy", "audited", "log_loss", "ece", "roc_auc", "uncertain", "accuracy_when_certain")
    for name in (name for name in names if name in figures):
        value, interval, n = metrics.show(figures[name])
        print(f"{name:22} {value}  95 % {interval}  n={n}")
    verdicts = gates.judge(figures, limits, KNOWN_GATES)
    print(gates.show(verdicts))
    return 0 if options.report_only or all(verdict.passed for verdict in verdicts) else 1
