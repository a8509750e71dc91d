"""What people say of the photos that wait: the next photo for a person in, verdicts and agreement out.

Each function works in one transaction of `serving.observers.review.queue`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from serving.contract.errors import NothingToUndo, UnknownPhoto

NEITHER, CANNOT_TELL, LABEL = "neither", "cannot-tell", "label"
ANSWERED: Final = "exists (select 1 from verdicts v where v.request_id = photos.request_id)"
"""Condition on a photo that has a verdict."""
_SECOND_EVERY: Final = 5
"""One photo in so many is shown to a second person too."""
_WAITS: Final = f"""same_as is null and not exists (
  select 1 from verdicts v where v.request_id = photos.request_id and v.reviewer = :reviewer
) and (select count(*) from verdicts v where v.request_id = photos.request_id)
  < case when rank % {_SECOND_EVERY} = 0 then 2 else 1 end"""  # noqa: S608
_GONE: Final = "No photo is kept for review under this request id: it was deleted, or it never was kept."


class Revealed(NamedTuple):
    """What is shown of a photo once it has a person's verdict."""

    prediction: str
    probability: float
    version: str
    reasons: list[str]
    filed: str | None
    """The label that a suspect has; None for other photos."""


class Agreement(NamedTuple):
    """How far two people agree on the same photos."""

    photos: int
    """Those that two people have seen."""
    agreed: int
    """Those on which they said the same."""
    kappa: float | None
    """Cohen's kappa: 1 if they always agree, 0 if as often as by chance; None if that is undefined."""


def next_photo(transaction: sqlite3.Connection, reviewer: str) -> str | None:
    """The request id of the photo that a person sees next: in the random order, and some as the second."""
    found = transaction.execute(
        f"select request_id from photos where {_WAITS} order by turn limit 1",  # noqa: S608
        {"reviewer": reviewer},
    ).fetchone()
    return found[0] if found else None


def classes(transaction: sqlite3.Connection) -> list[str]:
    """What people may answer; empty if that is the classes of the model that serves."""
    return [label for (label,) in transaction.execute("select label from classes order by label")]


def waiting(transaction: sqlite3.Connection) -> int:
    """How many photos have no verdict."""
    query = f"select count(*) from photos where same_as is null and not {ANSWERED}"  # noqa: S608
    return int(transaction.execute(query).fetchone()[0])


def left_for(transaction: sqlite3.Connection, reviewer: str) -> int:
    """How many photos wait for a person."""
    query = f"select count(*) from photos where {_WAITS}"  # noqa: S608
    return int(transaction.execute(query, {"reviewer": reviewer}).fetchone()[0])


def given_by(transaction: sqlite3.Connection, reviewer: str) -> int:
    """How many verdicts a person has given."""
    found = transaction.execute("select count(*) from verdicts where reviewer = ?", (reviewer,)).fetchone()
    return int(found[0])


def photo(transaction: sqlite3.Connection, request_id: str) -> bytes:
    """The bytes of a photo, as they were sent.

    Raises:
        UnknownPhoto: it is not kept, or not any more.
    """
    found = transaction.execute(
        "select photo from photos where request_id = ? and same_as is null", (request_id,)
    ).fetchone()
    if found is None:
        raise UnknownPhoto(_GONE)
    return bytes(found[0])


def give(
    transaction: sqlite3.Connection,
    request_id: str,
    reviewer: str,
    verdict: str,
    label: str | None,
    at: float,
) -> Revealed:
    """Store a person's verdict, in place of an earlier one of the same person.

    Raises:
        UnknownPhoto: the photo is not kept, or not any more.
    """
    found = transaction.execute(
        "select prediction, probability, version, reasons, filed "
        "from photos left join suspects using (request_id) "
        "where request_id = ? and same_as is null",
        (request_id,),
    ).fetchone()
    if found is None:
        raise UnknownPhoto(_GONE)
    prediction, probability, version, reasons, filed = found
    transaction.execute(
        "insert or replace into verdicts values (?, ?, ?, ?, ?, ?)",
        (request_id, reviewer, at, verdict, label, version),
    )
    return Revealed(prediction, probability, version, reasons.split(","), filed)


def undo(transaction: sqlite3.Connection, reviewer: str) -> str:
    """Take a person's last verdict back; return the photo's request id.

    Raises:
        NothingToUndo: there is none.
    """
    found = transaction.execute(
        "delete from verdicts where rowid = (select rowid from verdicts where reviewer = ? "
        "order by at desc, rowid desc limit 1) returning request_id",
        (reviewer,),
    ).fetchone()
    if found is None:
        raise NothingToUndo(f"{reviewer} has given no verdict that could be taken back.")
    return str(found[0])


def agreement(transaction: sqlite3.Connection) -> Agreement:
    """How far the first and the second person agree, on the photos that two have seen."""
    pairs = transaction.execute(
        """
select max(said) filter (where place = 1), max(said) filter (where place = 2) from (
  select request_id, verdict || ':' || coalesce(label, '') as said,
    row_number() over (partition by request_id order by at, rowid) as place from verdicts
) where place <= 2 group by request_id having count(*) = 2"""
    ).fetchall()
    return Agreement(len(pairs), sum(one == other for one, other in pairs), kappa(pairs))


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa (1960) of two people's answers on the same photos; None if chance explains everything."""
    n = len(pairs)
    if not n:
        return None
    first, second = (Counter(pair[place] for pair in pairs) for place in (0, 1))
    by_chance = sum(first[answer] * second[answer] for answer in first) / n**2
    if by_chance == 1:
        return None
    return (sum(one == other for one, other in pairs) / n - by_chance) / (1 - by_chance)
