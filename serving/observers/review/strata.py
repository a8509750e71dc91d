"""Answered photos and verdicts in, the counts out from which the accuracy of all photos is estimated.

The verdicts alone would not give it: uncertain photos are wrong more often, and all of them are kept. So the
answered photos are counted in two strata, those that are uncertain or unfamiliar and the rest, of which a
random sample is kept. `evaluation.figures.strata` has the estimate.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

_IN_STRATUM: Final = "p.sha256 = :sha256 and p.at_sight = :at_sight and (p.at_sight or p.sampled)"
_BOUND: Final = f"""
select min(bound) from (
  select min(p.rank) as bound from photos p where {_IN_STRATUM}
    and not exists (select 1 from verdicts v where v.request_id = coalesce(p.same_as, p.request_id))
  union all select min(turn) from ceilings
)"""  # noqa: S608 (no value of a caller)
"""Below this rank each photo of the stratum has a verdict, and none was deleted for want of room."""
_COUNTS: Final = f"""
select count(*), coalesce(sum(v.label = p.prediction), 0), coalesce(sum(v.verdict = 'neither'), 0),
  coalesce(sum(v.verdict = 'cannot-tell'), 0)
from photos p join (
  select request_id, verdict, label, row_number() over (partition by request_id order by at, rowid) as place
  from verdicts
) v on v.request_id = coalesce(p.same_as, p.request_id) and v.place = 1
where {_IN_STRATUM} and (:bound is null or p.rank < :bound)"""  # noqa: S608


class Stratum(msgspec.Struct, frozen=True):
    """Counts of one kind of photo, of one model."""

    version: str
    """The model's version."""
    sha256: str
    """Of its artefact."""
    at_sight: bool
    """Those that are uncertain or unfamiliar; false: the rest."""
    answered: int
    """All that were answered, kept or not."""
    reviewed: int
    """A random sample of them that has verdicts; the first, where there are two."""
    right: int
    """Those of the sample whose label is the prediction."""
    neither: int
    """Those of the sample that show none of the classes."""
    cannot_tell: int
    """Those of the sample of which the person could not tell."""


def strata(transaction: sqlite3.Connection) -> list[Stratum]:
    """The counts of each model, over the days that are kept."""
    answered = transaction.execute(
        "select version, sha256, at_sight, sum(answered) from counts group by sha256, at_sight "
        "order by max(day) desc, sha256, at_sight desc"
    ).fetchall()
    return [_stratum(transaction, *row) for row in answered]


def _stratum(
    transaction: sqlite3.Connection, version: str, sha256: str, at_sight: int, answered: int
) -> Stratum:
    given: dict[str, object] = {"sha256": sha256, "at_sight": at_sight}
    (given["bound"],) = transaction.execute(_BOUND, given).fetchone()
    found = transaction.execute(_COUNTS, given).fetchone()
    return Stratum(version, sha256, bool(at_sight), answered, *found)
