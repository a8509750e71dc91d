"""The journal and what the steps wrote in; the evidence for a person out, `build/loop/report.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from common.files import sha256, write_text
from evaluation.figures.gates import Outcome
from loop.journal import REPORT
from loop.state import CHAMPION, State
from serving.contract import artifact

_CHECKPOINT: Final = Path("models/checkpoint.ckpt")
_STARTS: Final = Path("build/continue/starts.json")
_COMPARISON: Final = Path("reports/compare/summary.md")
_OUTCOMES: Final = {
    Outcome.PASS: "The candidate may replace the released model.",
    Outcome.FAIL: "The candidate was refused: a gate failed, see above. models/release is unchanged.",
    Outcome.TOO_FEW: "There are too few photos to judge the candidate: "
    "label more. models/release is unchanged.",
}


def write_report(state: State) -> str:
    """Write and return the report; parts whose step has not run are left out."""
    journal = state.journal
    parts = []
    if journal.changes:
        parts += ["## What has changed since the last training", _listed(journal.changes)]
    starts = _starts()
    if starts:
        parts += ["## Two trainings, judged on validation", starts]
    if journal.judged:
        if _COMPARISON.exists():
            parts += ["## The candidate against the released model", _COMPARISON.read_text(encoding="utf-8")]
        parts += ["## Outcome", _outcome(state)]
    text = "\n\n".join(part.strip() for part in parts) or "Nothing has changed: nothing was trained."
    write_text(REPORT, text + "\n")
    return text


def _starts() -> str:
    """The two trainings of `make continue` as a table; "" unless the checkpoint is that of one of them."""
    if not _STARTS.exists() or not _CHECKPOINT.exists():
        return ""
    found: dict[str, Any] = msgspec.json.decode(_STARTS.read_bytes())
    kept = found["kept"]
    if found[kept]["checkpoint_sha256"] != sha256(_CHECKPOINT):
        return ""
    lines = ["| training from | log loss, nats | accuracy | n | |", "| --- | --- | --- | --- | --- |"]
    for name, about in (
        ("from_start", found["from_start"]["weights"]),
        ("from_champion", f"the released model {found['champion']['version']}"),
    ):
        one, accuracy = found[name], found[name]["accuracy"]
        shown = f"{accuracy['value']:.2%} [{accuracy['low']:.2%}, {accuracy['high']:.2%}]"
        lines.append(f"| {about} | {one['loss']:.4f} | {shown} | {one['n']:,} | {'kept' * (name == kept)} |")
    return "\n".join(lines)


def _outcome(state: State) -> str:
    if state.journal.refused_by_release:
        return (
            "The comparison allows the candidate, but the gates of a release do not (`offline` in "
            "configs/gates.yaml; `make release` shows them). models/release is unchanged."
        )
    if state.journal.status or not state.is_released():
        return _OUTCOMES[Outcome(state.journal.status)]
    card = artifact.read(CHAMPION).card
    deployed = " It was deployed." if state.journal.deployed == sha256(CHAMPION) else ""
    return f"Released as {card.name} {card.version}, in this checkout.{deployed}"


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
