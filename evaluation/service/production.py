"""`python -m evaluation production --url …`: how often is the deployed model right?

The counts of the review in (`GET /review/progress`, or a file with its JSON); the accuracy of all answers
out, also of those that nobody has looked at, by `evaluation.figures.strata`.
"""

from __future__ import annotations

import argparse

import msgspec

from common.errors import UserError
from common.files import write_json, write_text
from evaluation.figures.intervals import Figure
from evaluation.figures.strata import Production, Stratum, production
from evaluation.service.client import get


class ProductionError(UserError):
    """There is nothing to estimate from; the text names the cause and the next step."""


class Counted(Stratum, frozen=True):
    """One stratum of one model."""

    version: str
    sha256: str
    at_sight: bool
    """Its photos are uncertain or unfamiliar; false: the rest."""


class _Progress(msgspec.Struct, frozen=True):
    strata: list[Counted]


def read(content: bytes) -> list[Counted]:
    """The strata of the model that answered last, each with reviewed photos.

    Raises:
        ProductionError: it is something else, nothing was answered, or a stratum has no reviewed photo.
    """
    try:
        strata = msgspec.json.decode(content, type=_Progress).strata
    except msgspec.DecodeError as error:
        raise ProductionError(
            f"This is not the JSON of GET /review/progress: {error}. Check the address or file."
        ) from error
    if not strata:
        raise ProductionError("The service has answered no photo since the review began. Try again later.")
    latest = [stratum for stratum in strata if stratum.sha256 == strata[0].sha256]
    for stratum in latest:
        if stratum.reviewed == stratum.cannot_tell + stratum.neither:
            raise ProductionError(
                f"Of the {stratum.answered:,} {_name(stratum)} photos, none that shows one of the classes "
                "has been reviewed. Label more of them at /review."
            )
    return latest


def as_markdown(strata: list[Counted], found: Production) -> str:
    """The estimate for a person or a CI step."""
    answered, reviewed = (sum(getattr(one, name) for one in strata) for name in ("answered", "reviewed"))
    source = (
        f"Estimated for all {answered:,} answers of model {strata[0].version}, from {reviewed:,} that people "
        f"reviewed; {_percent(found.neither)} of the photos show none of the classes. Intervals are at 95 %."
    )
    lines = [
        f"### Accuracy in production: {_percent(found.accuracy)}",
        "",
        source,
        "",
        "| photos | answered | reviewed | right | none of the classes | cannot tell |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in strata:
        counts = (one.answered, one.reviewed, one.right, one.neither, one.cannot_tell)
        lines.append(f"| {_name(one)} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(lines)


def _name(stratum: Counted) -> str:
    return "uncertain or unfamiliar" if stratum.at_sight else "other"


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} % [{100 * figure.low:.1f} %, {100 * figure.high:.1f} %]"


def main(options: argparse.Namespace) -> int:
    """Estimate, print and write; return 0."""
    url = (options.url or "").rstrip("/")
    content = options.file.read_bytes() if options.file else get(url, "/review/progress", ProductionError)
    strata = read(content)
    found = production(strata)
    summary = as_markdown(strata, found)
    write_text(options.out / "summary.md", summary + "\n")
    write_json(options.out / "production.json", {"estimate": found, "strata": strata})
    print(summary)
    return 0
