"""`python -m evaluation compare`: may the candidate replace the champion?

Photos of one or several splits in, a `Comparison` of each, `reports/compare/` and a verdict out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from common.files import write_json, write_text
from common.manifest import labelled, read_split
from common.photos import find_labelled
from evaluation import ledger
from evaluation.arguments import SPLITS
from evaluation.artefact.comparison import compare
from evaluation.artefact.results import Comparison, Differing
from evaluation.figures import gates, intervals, metrics, pictures
from evaluation.ledger import Model
from serving.contract import artifact

_LABELLED: Final = "labelled"
"""What photos are called that are no split."""
_SHOWN: Final = 20
"""Most photos in a picture."""
_RELATIVE: Final = (
    *("points_lost_max", "significantly_worse_max", "slices_worse_max"),
    *("slice_points_lost_max", "log_loss_times_max"),
)
"""Gates on what the candidate is worth next to the champion. The others are judged once, on the first photos:
size and latency do not depend on the photos, and a limit on the candidate's own calibration error takes more
photos to show than people label; log loss, next to the champion's, notices its loss with fewer."""
_TITLES: Final = {
    gates.Outcome.PASS: "may be promoted",
    gates.Outcome.FAIL: "REFUSED",
    gates.Outcome.TOO_FEW: "TOO FEW PHOTOS to tell",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """The comparison on the photos of one split."""

    split: str
    found: Comparison
    verdicts: list[gates.Verdict]
    photos_to_tell: int | None
    """About how many photos would tell where `points_lost_max` cannot; None where it can, or none would."""

    @property
    def outcome(self) -> gates.Outcome:
        """Of all gates on these photos."""
        return gates.overall(self.verdicts)


def judge(split: str, found: Comparison, limits: gates.Gates[Comparison], *, first: bool) -> Judged:
    """Judge a comparison; if it is not the first one, by the relative gates alone."""
    verdicts = [one for one in limits.judge(found) if first or one.gate in _RELATIVE]
    needed = None
    if any(one.gate == "points_lost_max" and one.outcome == gates.Outcome.TOO_FEW for one in verdicts):
        counts = found.only_candidate_right, found.only_champion_right, found.photos
        needed = intervals.photos_to_tell(*counts, -limits.limits["points_lost_max"] / 100)
    return Judged(split, found, verdicts, needed)


def overall(judged: list[Judged]) -> gates.Outcome:
    """Of all gates on all photos."""
    return gates.overall(verdict for one in judged for verdict in one.verdicts)


def as_markdown(judged: list[Judged]) -> str:
    """The verdict and its reasons, for a person or a CI step."""
    new, old = judged[0].found.candidate, judged[0].found.champion
    lines = [f"### {new.version} against {old.version}: {_TITLES[overall(judged)]}", ""]
    lines += [_reasons(one) for one in judged]
    if len(judged) > 1:
        lines += ["", "Each of them must hold: a gain on one makes up for no loss on another."]
    for one in judged:
        lines += ["", f"#### {one.split}, {one.found.photos:,} photos", "", *_figures(one.found)]
        lines += ["", *_pictures(one), "```", gates.as_text(one.verdicts), "```"]
    return "\n".join(lines)


def _reasons(judged: Judged) -> str:
    """One line: the outcome, each gate that does not pass and by how much, and how many photos would tell."""
    text = f"- {judged.split}, {judged.found.photos:,} photos: {_TITLES[judged.outcome]}"
    reasons = [f"`{one.gate}` ({one.reason})" for one in judged.verdicts if one.outcome]
    text += f": {', '.join(reasons)}." if reasons else "."
    if judged.photos_to_tell:
        text += (
            f" If the models differ on others as on these, about {judged.photos_to_tell:,} photos show "
            f"how far accuracy can fall: {judged.photos_to_tell - judged.found.photos:,} more."
        )
    return text


def _figures(found: Comparison) -> list[str]:
    """A table of both models' figures, and what is paired, in sentences."""
    new, old, gap = found.candidate, found.champion, found.accuracy_difference
    lines = ["| figure | candidate | champion |", "| --- | --- | --- |"]
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
    return lines


def _differing(judged: Judged) -> dict[str, tuple[list[Differing], str]]:
    """By name of the picture: the photos on which one model alone is right, and which one."""
    return {"lost": (judged.found.lost, "champion"), "gained": (judged.found.gained, "candidate")}


def _pictures(judged: Judged) -> list[str]:
    """Where the photos are drawn on which only one model is right."""
    lines = [
        f"`{judged.split}/{name}.png` shows {min(_SHOWN, len(photos))} of the {len(photos)} photos that only "
        f"the {side} predicts correctly."
        for name, (photos, side) in _differing(judged).items()
        if photos
    ]
    return [*lines, ""] if lines else []


def _write(out: Path, judged: list[Judged], summary: str) -> None:
    """Write the report; pictures of an earlier one do not stay."""
    for split in (*SPLITS, _LABELLED):
        for name in ("lost", "gained"):
            (out / split / f"{name}.png").unlink(missing_ok=True)
    for one in judged:
        for name, (photos, side) in _differing(one).items():
            if photos:
                rows = [
                    (Path(photo.path), f"{photo.answer} {photo.probability:.1%}\nlabelled {photo.label}")
                    for photo in photos[:_SHOWN]
                ]
                title = f"Only the {side} is right: {len(photos)} of {one.found.photos} photos"
                pictures.save(pictures.thumbnails(rows, title), out / one.split / f"{name}.png")
    splits = {
        one.split: msgspec.to_builtins(one.found)
        | {
            "outcome": one.outcome.name,
            "gates": gates.by_name(one.verdicts),
            "photos_to_tell": one.photos_to_tell,
        }
        for one in judged
    }
    write_json(out / "compare.json", {"outcome": overall(judged).name, "splits": splits})
    write_text(out / "summary.md", summary + "\n")


def _read(options: argparse.Namespace) -> dict[str, list[tuple[Path, str]]]:
    """The labelled photos by split; a look at a test set is recorded."""
    if options.labelled:
        return {_LABELLED: find_labelled(options.labelled)}
    asked = options.split or ["validation"]
    rows = {split: read_split(options.manifest, split) for split in SPLITS if split in asked}
    models = [Model.of(artifact.read(path)) for path in (options.candidate, options.champion)]
    for split, table in rows.items():
        if looks := ledger.record("compare", split, models, table):
            print(f"Models looked at on these photos of {split}: {looks} ({ledger.LEDGER}).")
    return {split: labelled(table, options.raw) for split, table in rows.items()}


def main(options: argparse.Namespace) -> int:
    """Compare and judge; return 0 if every gate passes, 1 if one fails, 3 if the photos cannot tell."""
    limits = gates.read_gates("promotion", Comparison, options.gates)
    judged: list[Judged] = []
    for split, photos in _read(options).items():
        found = compare(options.candidate, options.champion, photos)
        judged.append(judge(split, found, limits, first=not judged))
    summary = as_markdown(judged)
    _write(options.out, judged, summary)
    print(summary)
    return overall(judged)
