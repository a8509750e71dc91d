"""The tables of the photos that wait for a person's verdict, and of what the people said.

`serving.observers.review.queue` fills them, `serving.observers.review.verdicts` reads them.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from serving.observers import database
from serving.telemetry.metrics import REVIEW_REASONS

UNCERTAIN, UNFAMILIAR, SHADOW, TOLD_WRONG, SAMPLE, SUSPECT = REVIEW_REASONS
"""Why a photo is kept: the first two are known at its answer, the next two later, then a draw; a suspect is a
photo of the training data whose label is in doubt."""
RANK_BITS: Final = 53
MIGRATIONS: Final = (
    """
create table if not exists photos (
  request_id text primary key, at real not null, prediction text not null, probability real not null,
  version text not null, sha256 text not null, reasons text not null, at_sight integer not null,
  sampled integer not null, rank integer not null, turn integer not null, same_as text, hash blob, photo blob
);
create index if not exists photos_by_turn on photos (turn) where same_as is null;
create index if not exists photos_by_twin on photos (same_as) where same_as is not null;
create index if not exists photos_by_time on photos (at);
create table if not exists verdicts (
  request_id text not null, reviewer text not null, at real not null, verdict text not null, label text,
  version text not null, primary key (request_id, reviewer)
);
create index if not exists verdicts_by_reviewer on verdicts (reviewer, at);
create table if not exists counts (
  day integer not null, sha256 text not null, version text not null, at_sight integer not null,
  answered integer not null, primary key (day, sha256, at_sight)
);
create table if not exists ceilings (at real not null, turn integer not null);
create table if not exists deletions (request_id text primary key, at real not null)
""",
    """
create table if not exists suspects (request_id text primary key, filed text not null, path text not null);
create table if not exists classes (label text primary key)
""",
)
"""`photos`: each photo that is kept. `at_sight`: whether it is uncertain or unfamiliar; `sampled`: whether
the random sample drew it. `rank`: a random number; the photos of all ranks below any number are a random
sample of all (permanent random numbers, Ohlsson 1995). `same_as`: the photo that looks the same, whose bytes
stand for both; `turn`: the least rank of a photo and those that look the same, the order of review.

`counts`: all answered photos, kept or not, by day, model and `at_sight`. `ceilings`: the least turn that was
deleted for want of room, and when. `deletions`: request ids that were deleted on request, so that nothing
that is still on its way is kept under them.

`suspects`: photos of the training data whose label is in doubt, by the sha256 of their bytes, with it.
`classes`: what people may answer, if not the classes of the model that serves.
"""


def connect(path: Path) -> sqlite3.Connection:
    """The database with its tables."""
    return database.connect(path, MIGRATIONS, "photos")
