"""`python -m evaluation offline`: evaluate one split through the handler that serves.

Encoded bytes go in, so decoding, preprocessing, artefact and predictions are those of production.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pandas as pd

from common.cores import map_on_cores
from common.errors import UserError
from common.files import atomic_file, write_json
from common.labels import correct, read_reviewed
from common.manifest import labelled, read_split
from evaluation import ledger
from evaluation.artefact.results import Audited, Offline
from evaluation.artefact.targets import targets
from evaluation.figures import gates, intervals, metrics, pictures
from evaluation.ledger import Model
from serving.contract.answer import Refusal
from serving.runtime.handler import ImageClassifierHandler, load_handler

_SHOWN: Final = (
    *("accuracy", "audited", "macro_accuracy", "lowest_recall", "top5_accuracy"),
    *("log_loss", "brier", "ece", "roc_auc", "uncertain", "accuracy_when_certain"),
)


class EvaluationError(UserError):
    """The handler refuses a photo; the text names it."""


def score(handler: ImageClassifierHandler, photos: list[Path], labels: list[str]) -> intervals.Floats:
    """`f64[N,K]`: the handler's probabilities for each photo, in order, on all cores.

    Raises:
        EvaluationError: the handler refuses a photo.
    """

    def compute(path: Path) -> list[float]:
        answer = handler.handle([{"body": path.read_bytes()}])[0]
        if isinstance(answer, Refusal):
            raise EvaluationError(
                f"The handler refuses {path}: {answer.detail} Prepare the photos again: make data."
            )
        return [answer.probabilities[label] for label in labels]

    return np.array(map_on_cores(compute, photos, "evaluate"))


def evaluate(model: Path, manifest: Path, raw: Path, split: str, out: Path) -> Offline:
    """Evaluate one split; write `metrics.json` to `out`, tables and pictures to `out/plots`.

    Raises:
        EvaluationError: the handler refuses a photo.
        ManifestError: there is no such split.
        LabelError: a photo's label is not a class of the model.
        LabelsError: the reviewed labels cannot be used.
        ArtifactError: the artefact cannot be loaded, or fails its probe.
    """
    table = read_split(manifest, split)
    handler = load_handler(model)
    card = handler.artifact.card
    model_record = Model.of(handler.artifact)
    looks = ledger.record("offline", split, [model_record], table)
    truth = targets(table["label"], card.labels)
    photos = [path for path, _ in labelled(table, raw)]
    probabilities = score(handler, photos, card.labels)
    uncertain = probabilities.max(1) < card.abstain_threshold
    result = Offline(
        **msgspec.structs.asdict(metrics.evaluate(probabilities, truth, card.labels)),
        uncertain=intervals.wilson(int(uncertain.sum()), len(uncertain)),
        accuracy_when_certain=metrics.accuracy(probabilities[~uncertain], truth[~uncertain]),
        audited=_audited(table, probabilities, card.labels),
        model=model_record,
        mlflow_run_id=card.lineage.mlflow_run_id,
        split=split,
        test_looks=looks,
    )
    _write_tables(out / "plots", table, probabilities, truth, card.labels)
    _draw(out / "plots", split, photos, probabilities, truth, card.labels)
    write_json(out / "metrics.json", result)  # last: its presence means that the report is complete
    return result


def _audited(table: pd.DataFrame, probabilities: intervals.Floats, labels: list[str]) -> Audited | None:
    """Accuracy with the reviewed labels, and how many photos they affect; None if none."""
    audited = correct(table, read_reviewed())
    if audited["label"].equals(table["label"]):
        return None
    kept = table.index.isin(audited.index)
    right = metrics.accuracy(probabilities[kept], targets(audited["label"], labels))
    return Audited(
        **msgspec.structs.asdict(right),
        relabelled=int((audited["label"] != table["label"][kept]).sum()),
        left_out=int((~kept).sum()),
    )


def _write_tables(
    plots: Path,
    table: pd.DataFrame,
    probabilities: intervals.Floats,
    truth: intervals.Ints,
    labels: list[str],
) -> None:
    predictions = pd.DataFrame(probabilities.round(6), columns=[f"p_{label}" for label in labels])
    predictions.insert(0, "path", table["path"].to_numpy())
    predictions.insert(1, "actual", table["label"].to_numpy())
    predictions.insert(2, "predicted", [labels[k] for k in probabilities.argmax(1)])
    bins = metrics.reliability(probabilities, truth)
    reliability = pd.DataFrame([msgspec.structs.asdict(one) for one in bins])
    for name, content in (("predictions", predictions), ("reliability", reliability)):
        with atomic_file(plots / f"{name}.csv") as partial:
            content.to_csv(partial, index=False)


def _draw(
    plots: Path,
    split: str,
    photos: list[Path],
    probabilities: intervals.Floats,
    truth: intervals.Ints,
    labels: list[str],
) -> None:
    table = metrics.confusion(probabilities, truth)
    for name, figure in {
        "confusion_matrix": pictures.confusion_matrix(table, labels, f"{split} split"),
        "reliability": pictures.reliability_diagram(probabilities, truth, f"{split} split"),
        "roc": pictures.roc(probabilities, truth, labels, f"ROC, {split} split"),
        "worst_mistakes": pictures.worst_mistakes(photos, probabilities, truth, labels),
    }.items():
        pictures.save(figure, plots / f"{name}.png")


def main(options: argparse.Namespace) -> int:
    """Evaluate and judge; return 0 if every gate passes, 1 if one fails, 3 if the photos cannot tell."""
    limits = gates.read_gates("offline", Offline, options.gates)
    result = evaluate(options.model, options.manifest, options.raw, options.split, options.out)
    for name in _SHOWN:
        if (figure := getattr(result, name)) is not None:
            value, interval, n = intervals.show(figure)
            print(f"{name:22} {value}  95 % {interval}  n={n}")
    print(f"{'':22} a perfectly calibrated model would show an ece of {result.ece.null:.4f}")
    verdicts = limits.judge(result)
    print(gates.as_text(verdicts))
    outcome = gates.overall(verdicts)
    if outcome:
        print(f"The bounds are in {options.gates}: set there what your own data should reach.")
    return 0 if options.report_only else outcome
