"""Right labels for answered requests, sent by clients and kept in a SQLite file that survives a kill.

As an observer, the store keeps each answer under its request id for a time, so that a label can follow by
`POST /feedback`. `serving.observers.export` reads the labelled answers back.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from serving.contract.answer import Answer
from serving.contract.errors import UnknownLabel, UnknownRequest
from serving.observation import Observation

_SCHEMA: Final = """
create table if not exists answers (
  request_id text primary key, at real not null, prediction text not null, probability real not null,
  version text not null, sha256 text not null, photo blob, label text, labelled_at real
);
create index if not exists answers_by_time on answers (at);
create index if not exists answers_by_label on answers (labelled_at) where label is not null;
"""
_MOST_WAITING: Final = 1000
_MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
_BATCH_SECONDS: Final = 0.2
_SWEEP_SECONDS: Final = 60.0
_BUSY_MS: Final = 5000
WINDOW: Final = 1000
"""Number of latest labelled answers behind the live accuracy."""


class Feedback:
    """The answers and labels of one process. A separate thread writes the answers, in batches."""

    def __init__(
        self,
        path: Path,
        *,
        keep_photos: bool,
        days: float,
        most_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a store; `open` it before use.

        Args:
            path: The SQLite file.
            keep_photos: Whether to keep the photos too.
            days: How long an answer, its photo and its label are kept.
            most_bytes: Size of the database above which the oldest answers are deleted, unlabelled first.
            clock: Seconds since the epoch.
        """
        self._path, self._keep_photos, self._days = path, keep_photos, days
        self._most_bytes, self._clock = most_bytes, clock
        self._lock = threading.Lock()
        self._waiting: queue.Queue[tuple[Any, ...] | None] = queue.Queue()
        self._counting, self._waiting_bytes = threading.Lock(), 0
        self._swept = float("-inf")
        self.dropped = 0
        """Answers that were not stored: the disk was too slow or failed, or their request id was taken."""
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)

    def open(self) -> None:
        """Open or create the database, and start writing.

        Raises:
            OSError: the file cannot be created or is not a database.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = connect(self._path)
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"{self._path} is not a feedback database: {error}. Set SERVING_FEEDBACK to another path."
            ) from error
        self._thread.start()

    def observe(self, observation: Observation) -> None:
        """Store an answer so that a label can follow; never blocks."""
        answer = observation.answer
        if not isinstance(answer, Answer):
            return
        kept = observation.encoded if self._keep_photos else None
        size = len(kept or b"")
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
        with self._counting:
            if self._waiting.qsize() >= _MOST_WAITING or self._waiting_bytes + size > _MOST_WAITING_BYTES:
                self.dropped += 1
                return
            self._waiting_bytes += size
        self._waiting.put(row)

    def label(self, request_id: str, label: str, labels: Sequence[str]) -> bool:
        """Store the right label; return whether the answer was right. The label is then on disk.

        Raises:
            UnknownLabel: the label is not one of `labels`.
            UnknownRequest: no answer is stored under this id.
        """
        if label not in labels:
            raise UnknownLabel(f"The label must be one of {', '.join(labels)}.")
        deadline = time.monotonic() + 2 * _BATCH_SECONDS
        while True:  # the answer may still be on its way to the disk
            with self._lock, self._database as transaction:
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
            time.sleep(_BATCH_SECONDS / 4)

    def accuracy(self) -> tuple[int, int]:
        """How many of the latest labelled answers were right, and how many there are."""
        with self._lock:
            right, count = self._database.execute(
                "select coalesce(sum(prediction = label), 0), count(*) from (select prediction, label "
                "from answers where label is not null order by labelled_at desc limit ?)",
                (WINDOW,),
            ).fetchone()
        return int(right), int(count)

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what is waiting and close the file, if it was opened."""
        if self._thread.ident is None:
            return
        self._waiting.put(None)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            return  # the disk does not take it in time; the process ends
        with self._lock:
            self._database.close()

    def _work(self) -> None:
        ended = False
        while not ended:
            rows = [self._waiting.get()]
            time.sleep(_BATCH_SECONDS if rows[0] is not None else 0)
            with contextlib.suppress(queue.Empty):
                while True:
                    rows.append(self._waiting.get_nowait())
            ended = None in rows
            answers = [row for row in rows if row is not None]
            lost = 0
            try:
                lost = self._store(answers)
            except sqlite3.Error:
                structlog.get_logger().exception("feedback cannot be stored")
                lost = len(answers)
            with self._counting:
                self._waiting_bytes -= sum(len(row[-1] or b"") for row in answers)
                self.dropped += lost

    def _store(self, rows: list[tuple[Any, ...]]) -> int:
        """Store the answers; return how many were not, because one with their request id is there already.

        The first one stays, with its label: the client chooses the id, and could erase a label with it.
        """
        with self._lock, self._database as transaction:
            stored = transaction.executemany(
                "insert or ignore into answers (request_id, at, prediction, probability, version, sha256, "
                "photo) values (?, ?, ?, ?, ?, ?, ?)",
                rows,
            ).rowcount
            if time.monotonic() - self._swept < _SWEEP_SECONDS:
                return len(rows) - max(0, stored)
            self._swept = time.monotonic()
            oldest = self._clock() - 86400 * self._days
            transaction.execute("delete from answers where at < ?", (oldest,))
            while self._bytes(transaction) > self._most_bytes:
                deleted = transaction.execute(
                    "delete from answers where request_id in (select request_id from answers "
                    "order by label is not null, at limit 100)"
                ).rowcount
                if deleted == 0:
                    break
        return len(rows) - max(0, stored)

    def _bytes(self, transaction: sqlite3.Connection) -> int:
        """Bytes in use: those of pages that are not free."""
        pages, free, size = (
            int(transaction.execute(f"pragma {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def connect(path: Path) -> sqlite3.Connection:
    """The database with its tables; a commit is on disk before it returns."""
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute(f"pragma busy_timeout = {_BUSY_MS}")
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
