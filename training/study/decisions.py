"""The audit's table in, the photos for review out; people's verdicts in, rows of `configs/labels.csv` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import pandas as pd

from common.errors import PipelineError
from common.labels import append_reviewed, read_reviewed
from common.manifest import read_manifest
from serving.contract.suspects import Said, Suspect, Suspects
from training.place import Place

SHOWN: Final = 300
"""So many suspects, the worst, are shown at once."""
_NEITHER: Final = "neither"


class Decisions(NamedTuple):
    """What verdicts mean for the list of reviewed labels."""

    rows: list[tuple[str, str, str]]
    """To append: sha256, label (empty: leave the photo out) and note."""
    aside: list[str]
    """What changes nothing, and why: a line for each photo."""


def worst(place: Place, answered: Collection[str]) -> Suspects:
    """The worst suspects of the last audit that are neither in the list of reviewed labels nor `answered`.

    Raises:
        PipelineError: there was no audit, or one of an older version.
        ManifestError: there is no manifest.
        LabelsError: the list of reviewed labels cannot be used.
    """
    path = place.audit / "suspects.csv"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise PipelineError(f"There is no {path}. Look for suspects first: make audit.") from error
    if "suggested_probability" not in table:
        raise PipelineError(f"{path} is from an older version. Look for suspects again: make audit.")
    classes = sorted(read_manifest(place.manifest)["label"].unique())
    left = table[~table["sha256"].isin({*read_reviewed(place.reviewed).index, *answered})]
    photos = [
        Suspect(
            row["sha256"],
            str(place.raw / row["path"]),
            row["label"],
            row["suggested"],
            float(row["suggested_probability"]),
        )
        for row in left.drop_duplicates("sha256").head(SHOWN).to_dict("records")
    ]
    return Suspects(classes, photos)


def decide(said: Iterable[Said], listed: Mapping[str, str]) -> Decisions:
    """What people decided that is not in the list yet; a row that is there stays.

    Args:
        said: What people said of the suspects.
        listed: The list's labels by sha256.
    """
    rows, aside = [], []
    for photo in said:
        answers = {label or verdict for verdict, label in photo.verdicts}
        verdict, label = photo.verdicts[0]
        new = label or ""
        if len(set(photo.verdicts)) > 1:
            reason = f"people disagree ({', '.join(sorted(answers))}){_row(listed, photo)}"
        elif verdict == "cannot-tell":
            reason = "cannot tell"
        elif photo.sha256 not in listed:
            rows.append((photo.sha256, new, _note(new, photo.filed)))
            continue
        elif listed[photo.sha256] != new:
            reason = f"{label or verdict}{_row(listed, photo)}"
        else:
            continue
        aside.append(f"{photo.path}, filed under {photo.filed}: {reason}")
    return Decisions(rows, aside)


def _row(listed: Mapping[str, str], photo: Said) -> str:
    """What the list says of a photo, if anything."""
    if photo.sha256 not in listed:
        return ""
    return f", but the list says {listed[photo.sha256] or 'to leave it out'}: edit its row if that is wrong"


def _note(label: str, filed: str) -> str:
    if not label:
        return _NEITHER
    return "confirmed" if label == filed else f"{label} filed under {filed}"


def write(place: Place, said: Iterable[Said]) -> None:
    """Append what people decided to the list of reviewed labels, and print it with what stays undecided.

    Raises:
        LabelsError: the list cannot be used.
    """
    listed = read_reviewed(place.reviewed)["label"]
    decisions = decide(said, dict(zip(listed.index, listed, strict=True)))
    if decisions.rows:
        append_reviewed(decisions.rows, place.reviewed)
        kinds = Counter(
            note if note in ("confirmed", _NEITHER) else "relabelled" for *_, note in decisions.rows
        )
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"{place.reviewed}: {len(decisions.rows)} added ({counts})")
    if decisions.aside:
        print("Nothing was changed for:")
    for line in decisions.aside:
        print(f"  {line}")
