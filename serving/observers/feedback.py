"""Right labels for answered requests, sent by clients and kept in a SQLite file that survives a kill.

As an observer, the store keeps each answer under its request id for a time, so that a label can follow by
`POST /feedback`. `serving.observers.export` reads the labelled answers back.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from serving.contract.answer import Answer
from serving.contract.errors import FeedbackUnavailable, UnknownLabel, UnknownRequest
from serving.observation import Observation
from serving.observers import database
from serving.observers.store import BATCH_SECONDS, PATIENCE_SECONDS, Store

_MIGRATIONS: Final = (
    """
create table if not exists answers (
  request_id text primary key, at real not null, prediction text not null, probability real not null,
  version text not null, sha256 text not null, photo blob, label text, labelled_at real
);
create index if not exists answers_by_time on answers (at);
create index if not exists answers_by_label on answers (labelled_at) where label is not null
""",
)
_BUSY_MS: Final = database.BUSY_MS
_PATIENCE_SECONDS: Final = PATIENCE_SECONDS
WINDOW: Final = 1000
"""Number of latest labelled answers behind the live accuracy."""
Row = tuple[Any, ...]


class Stored(NamedTuple):
    """An answer that is stored."""

    request_id: str
    at: float
    """Seconds since the epoch."""
    prediction: str
    probability: float
    version: str
    sha256: str
    photo: bytes | None
    """None if photos are not kept."""


class Feedback(Store[Row]):
    """The answers and labels of one process."""

    name, content, unavailable = "feedback", "stored answers", FeedbackUnavailable

    def __init__(
        self,
        path: Path,
        *,
        keep_photos: bool,
        days: float,
        most_bytes: int,
        clock: Callable[[], float] = time.time,
        on_drop: Callable[[str, int], None] = lambda _reason, _count: None,
    ) -> None:
        """Prepare a store; `open` it before use.

        Args:
            path: The SQLite file.
            keep_photos: Whether to keep the photos too.
            days: How long an answer, its photo and its label are kept.
            most_bytes: Size of the database above which the oldest answers are deleted, unlabelled first.
            clock: Seconds since the epoch.
            on_drop: As for `Store`, with the reason `duplicate` too: an earlier answer has the same request
                id.
        """
        super().__init__(path, on_drop=on_drop, patience_seconds=_PATIENCE_SECONDS)
        self._keep_photos, self._days, self._most_bytes, self._clock = keep_photos, days, most_bytes, clock

    def observe(self, observation: Observation) -> None:
        """Store an answer so that a label can follow; never blocks."""
        answer = observation.answer
        if not isinstance(answer, Answer):
            return
        kept = observation.encoded if self._keep_photos else None
        version, sha256 = observation.artifact.card.version, observation.artifact.sha256
        row = (
            observation.request_id,
            self._clock(),
            answer.prediction,
            answer.probability,
            version,
            sha256,
            kept,
        )
        self._offer(row, len(kept or b""))

    async def receive(
        self, request_id: str, label: str, labels: Sequence[str]
    ) -> tuple[bool, tuple[int, int] | None]:
        """`label`, then `accuracy` (None if the disk fails just then), in threads of the store's own.

        Raises:
            Overloaded: too many labels are waiting.
            ServingError: as `label` does.
        """
        return await self.call(self._receive, request_id, label, labels)

    def _receive(
        self, request_id: str, label: str, labels: Sequence[str]
    ) -> tuple[bool, tuple[int, int] | None]:
        right = self.label(request_id, label, labels)
        with contextlib.suppress(FeedbackUnavailable):
            return right, self.accuracy()
        return right, None

    def label(self, request_id: str, label: str, labels: Sequence[str]) -> bool:
        """Store the right label; return whether the answer was right. The label is then on disk.

        Raises:
            UnknownLabel: the label is not one of `labels`.
            UnknownRequest: no answer is stored under this id.
            FeedbackUnavailable: the disk is full, too slow or gone.
        """
        if label not in labels:
            raise UnknownLabel(f"The label must be one of {', '.join(labels)}.")
        deadline = time.monotonic() + 2 * BATCH_SECONDS
        while True:  # the answer may still be on its way to the disk
            with self.transaction() as transaction:
                found = transaction.execute(
                    "update answers set label = ?, labelled_at = ? where request_id = ? returning prediction",
                    (label, self._clock(), request_id),
                ).fetchone()
            if found:
                return bool(found[0] == label)
            if time.monotonic() > deadline:
                raise UnknownRequest(
                    "No answer is stored under this request id. It may be too old or of another instance."
                )
            time.sleep(BATCH_SECONDS / 4)

    def accuracy(self) -> tuple[int, int]:
        """How many of the latest labelled answers were right, and how many there are.

        Raises:
            FeedbackUnavailable: the disk is too slow or gone.
        """
        with self.transaction() as transaction:
            right, count = transaction.execute(
                "select coalesce(sum(prediction = label), 0), count(*) from (select prediction, label "
                "from answers where label is not null order by labelled_at desc limit ?)",
                (WINDOW,),
            ).fetchone()
        return int(right), int(count)

    def find(self, request_id: str) -> Stored | None:
        """The answer that is stored under an id.

        Raises:
            FeedbackUnavailable: the disk is too slow or gone.
        """
        with self.transaction() as transaction:
            found = transaction.execute(
                f"select {', '.join(Stored._fields)} from answers where request_id = ?",  # noqa: S608
                (request_id,),
            ).fetchone()
        return Stored(*found) if found else None

    def delete(self, request_id: str) -> None:
        """Delete the answers to a request, with photos and labels; their bytes are then in no file.

        Raises:
            FeedbackUnavailable: the disk is full, too slow or gone.
        """
        self._flush()
        with self.transaction() as transaction:
            transaction.execute(f"delete from answers where {database.OF_REQUEST}", {"id": request_id})  # noqa: S608
        self.erase()

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path)

    def _write(self, transaction: sqlite3.Connection, rows: list[Row]) -> Mapping[str, int]:
        """Store the answers whose request ids are new."""
        stored = transaction.executemany(
            "insert or ignore into answers (request_id, at, prediction, probability, version, sha256, photo) "
            "values (?, ?, ?, ?, ?, ?, ?)",
            rows,
        ).rowcount
        return {"duplicate": len(rows) - max(0, stored)}

    def _sweep(self, transaction: sqlite3.Connection) -> None:
        """Delete what is too old, then the oldest until the size is within its limit."""
        oldest = self._clock() - 86400 * self._days
        transaction.execute("delete from answers where at < ?", (oldest,))
        while database.used_bytes(transaction) > self._most_bytes:
            deleted = transaction.execute(
                "delete from answers where request_id in (select request_id from answers "
                "order by label is not null, at limit 100)"
            ).rowcount
            if deleted == 0:
                break


def connect(path: Path) -> sqlite3.Connection:
    """The database with its tables; a commit is on disk before it returns."""
    return database.connect(path, _MIGRATIONS, "answers", _BUSY_MS)
