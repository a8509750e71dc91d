"""`python -m evaluation compare`: may the candidate replace the champion?

A `Comparison` in, `reports/compare/` and a verdict out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import msgspec

from common.files import write_json, write_text
from common.manifest import labelled, read_split
from common.photos import find_labelled
from evaluation.artefact import ledger
from evaluation.artefact.comparison import compare
from evaluation.artefact.results import Comparison
from evaluation.figures import gates, intervals, metrics, pictures
from serving.contract import artifact

_SHOWN: Final = 20
"""Most lost photos in the picture."""
_TITLES: Final = {
    gates.Outcome.PASS: "may be promoted",
    gates.Outcome.FAIL: "REFUSED",
    gates.Outcome.TOO_FEW: "TOO FEW PHOTOS to tell",
}


def as_markdown(found: Comparison, verdicts: list[gates.Verdict]) -> str:
    """The verdict and its reasons, for a person or a CI step."""
    new, old, gap = found.candidate, found.champion, found.accuracy_difference
    lines = [
        f"### {new.version} against {old.version}: {_TITLES[gates.overall(verdicts)]}",
        "",
        "| figure | candidate | champion |",
        "| --- | --- | --- |",
    ]
    for name in metrics.SUMMARY:
        shown = [intervals.show(getattr(side, name)) for side in (new, old)]
        lines.append(f"| {name} | {' | '.join(f'{value} [{interval}]' for value, interval, _ in shown)} |")
    paired = (
        f"Of {found.photos} photos, only the candidate is right on {found.only_candidate_right}, only the "
        f"champion on {found.only_champion_right}: McNemar's p = {found.mcnemar_p:.3f}. Their predictions "
        f"differ on {found.other_predictions}, their probabilities by at most {found.largest_change:.2g}. "
        f"The difference in accuracy lies between {100 * gap.low:+.2f} and {100 * gap.high:+.2f} points; one "
        f"of {found.detectable_points:.2f} points would have been found with a probability of 80 %. The "
        f"candidate takes {found.latency_times.value:.2f} times as long per photo (median of paired ratios)."
    )
    lines += [f"| bytes | {new.bytes} | {old.bytes} |", "", paired]
    lines += [
        f"Worse on {one.property} {one.slice}: {one.candidate:.2%} against {one.champion:.2%}, "
        f"n={one.n}, p = {one.p:.1e}, one-sided."
        for one in found.slices
        if one.worse
    ]
    return "\n".join([*lines, "", "```", gates.as_text(verdicts), "```"])


def _write(out: Path, found: Comparison, summary: str, verdicts: list[gates.Verdict]) -> None:
    write_json(out / "compare.json", msgspec.to_builtins(found) | {"gates": gates.by_name(verdicts)})
    write_text(out / "summary.md", summary + "\n")
    if found.lost:
        rows = [
            (Path(lost.path), f"{lost.answer} {lost.probability:.1%}\nlabelled {lost.label}")
            for lost in found.lost[:_SHOWN]
        ]
        title = f"Only the champion is right: {len(found.lost)} of {found.photos} photos"
        pictures.save(pictures.thumbnails(rows, title), out / "lost.png")


def main(options: argparse.Namespace) -> int:
    """Compare and judge; return 0 if every gate passes, 1 if one fails, 3 if the photos cannot tell."""
    limits = gates.read_gates("promotion", Comparison, options.gates)
    if options.labelled:
        photos = find_labelled(options.labelled)
    else:
        rows = read_split(options.manifest, options.split)
        photos = labelled(rows, options.raw)
        if options.split == "test":
            artefacts = [artifact.read(path) for path in (options.candidate, options.champion)]
            looks = ledger.record("compare", artefacts, rows)
            print(f"Models looked at on this test split: {looks} (data/test-ledger.csv).")
    found = compare(options.candidate, options.champion, photos)
    verdicts = limits.judge(found)
    summary = as_markdown(found, verdicts)
    _write(options.out, found, summary, verdicts)
    print(summary)
    return gates.overall(verdicts)
