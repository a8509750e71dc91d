"""`python -m serving suspects DB`: print what people said of the photos whose label is in doubt, as JSON.

With `--fill` it first takes such photos from standard input (JSON too), to wait in the order in which they
come. Those that waited before and have no verdict make way. `make review-suspects` runs both.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import sqlite3
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from common.errors import UserError
from serving.contract.suspects import Reviewed, Said, Suspect, Suspects
from serving.observers.review import schema, verdicts

_AUDIT: Final = "audit"
"""Stands for the version of a model in the rows of suspects."""
_SAID: Final = """
select s.request_id, s.path, s.filed, v.verdict, v.label from suspects s join verdicts v using (request_id)
order by s.rowid, v.at, v.rowid"""


class SuspectsError(UserError):
    """The database or the list of suspects cannot be used; the text names the cause and the next step."""


def fill(database: sqlite3.Connection, suspects: Suspects) -> list[str]:
    """Let the suspects wait in their order, before any other photo; those with a verdict stay as they are.

    They are no part of the estimate of the accuracy: no stratum has them.

    Returns:
        Why photos were left out, a line each.
    """
    now, left_out = time.time(), []
    with database:
        database.execute(
            "delete from photos where request_id in (select request_id from suspects) "  # noqa: S608
            f"and not {verdicts.ANSWERED}"
        )
        database.execute("delete from suspects where request_id not in (select request_id from photos)")
        database.execute(
            "update photos set at = ? where request_id in (select request_id from suspects)", (now,)
        )
        database.execute("delete from classes")
        database.executemany("insert into classes values (?)", [(label,) for label in suspects.classes])
        for turn, suspect in enumerate(suspects.photos):
            try:
                photo = _read(suspect)
            except SuspectsError as error:
                left_out.append(str(error))
                continue
            database.execute(
                "insert or ignore into suspects values (?, ?, ?)",
                (suspect.sha256, suspect.filed, suspect.path),
            )
            database.execute(
                "insert or ignore into photos values (?, ?, ?, ?, ?, '', ?, 0, 0, ?, ?, null, null, ?)",
                (
                    *(suspect.sha256, now, suspect.suggested, suspect.probability, _AUDIT, schema.SUSPECT),
                    *(random.getrandbits(schema.RANK_BITS), turn, photo),
                ),
            )
    return left_out


def _read(suspect: Suspect) -> bytes:
    try:
        photo = Path(suspect.path).read_bytes()
    except OSError as error:
        raise SuspectsError(f"{suspect.path}: {error.strerror}") from error
    if hashlib.sha256(photo).hexdigest() != suspect.sha256:
        raise SuspectsError(f"{suspect.path}: not the photo that was audited")
    return photo


def reviewed(database: sqlite3.Connection) -> Reviewed:
    """What people said so far, the most suspicious photo first."""
    rows = database.execute(_SAID).fetchall()
    said = [
        Said(sha256, path, filed, [(verdict, label) for *_, verdict, label in given])
        for (sha256, path, filed), given in groupby(rows, key=lambda row: row[:3])
    ]
    return Reviewed(verdicts.left_for(database, reviewer=""), said)


def main(arguments: list[str]) -> int:
    """Fill, if asked to, and print."""
    parser = argparse.ArgumentParser(prog="python -m serving suspects", description=__doc__)
    parser.add_argument("database", type=Path, help="the file that SERVING_REVIEW names")
    parser.add_argument("--fill", action="store_true", help="take photos from standard input first")
    options = parser.parse_args(arguments)
    try:
        given = msgspec.json.decode(sys.stdin.buffer.read(), type=Suspects) if options.fill else None
    except msgspec.DecodeError as error:
        raise SuspectsError(f"This is no list of suspects: {error}. Use make review-suspects.") from error
    try:
        with contextlib.closing(schema.connect(options.database)) as database:
            left_out = fill(database, given) if given else []
            found = reviewed(database)
    except sqlite3.Error as error:
        raise SuspectsError(
            f"{options.database} cannot be used: {error}. Stop what has it open, or move it away."
        ) from error
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(msgspec.json.encode(found).decode())
    return 0
