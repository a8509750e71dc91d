"""`python -m training COMMAND`: the stages of dvc.yaml, studies, and chores with MLflow."""

from __future__ import annotations

import sys
from typing import Final

from common.command import Command, run
from training.fit import allocator

COMMANDS: Final = {
    "fetch": Command(
        "training.photos.fetch", "Fetch the photos into data/raw; the variable DATA overrides the source."
    ),
    "prepare": Command("training.photos.prepare", "Check, group and split the photos; write the manifest."),
    "fit": Command(
        "training.fit.stage", "Train a head on frozen features, then the whole network; track it in MLflow."
    ),
    "continue": Command(
        "training.starts.stage",
        "Train on from the released model; keep the result if validation prefers it.",
    ),
    "export": Command(
        "training.export.stage", "Calibrate the best checkpoint and write it as models/model.pt."
    ),
    "audit": Command(
        "training.study.audit",
        "Rank probable wrong labels, judged by the other photos, for a person to review.",
    ),
    "review-suspects": Command(
        "training.study.review",
        "Let people review the audit's worst suspects at /review; append decisions to configs/labels.csv.",
    ),
    "ablation": Command(
        "training.study.ablation",
        "Train with each part of the recipe left out; report what each contributes.",
    ),
    "tune": Command(
        "training.study.tune", "Search for better values of the recipe with Optuna, on validation."
    ),
    "month": Command(
        "training.study.month.stage",
        "Simulate a month of changing photos, with and without the loop; report what a label buys.",
    ),
    "bench": Command(
        "training.study.bench.stage", "Measure fine-tuning throughput with three sources of batches."
    ),
    "promote": Command(
        "training.promote", "Move the alias @champion to the registered version of an artefact."
    ),
    "track": Command("training.track", "Record a live evaluation (reports/live) as a run in MLflow."),
}


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    allocator.keep_freed()
    return run("training", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
