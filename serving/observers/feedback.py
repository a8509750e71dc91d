"""Right labels for answered requests, sent by clients and kept in a SQLite file that survives a kill.

As an observer, the store keeps each answer under its request id for a time, so that a label can follow by
`POST /feedback`. `serving.observers.export` reads the labelled answers back.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog

from serving.contract.answer import Answer
from serving.contract.errors import FeedbackUnavailable, Overloaded, UnknownLabel, UnknownRequest
from serving.observation import Observation

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
"""What makes each version of the schema from the one before, in statements separated by semicolons.

They only add tables, indices and columns with a default: after a rollback the release before still works.
"""
_MOST_WAITING: Final = 1000
_MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
_BATCH_SECONDS: Final = 0.2
_SWEEP_SECONDS: Final = 60.0
_LABELLERS: Final = 4
_MOST_LABELLING: Final = 64
_BUSY_MS: Final = 5000
_PATIENCE_SECONDS: Final = 2.0
"""Longest wait of a label for the writer, which may itself be waiting for the disk."""
_PASSING: Final = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")
"""What does not stop the start of the service: the store is opened again with each batch."""
WINDOW: Final = 1000
"""Number of latest labelled answers behind the live accuracy."""
Row = tuple[Any, ...]


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
        on_drop: Callable[[str, int], None] = lambda _reason, _count: None,
    ) -> None:
        """Prepare a store; `open` it before use.

        Args:
            path: The SQLite file.
            keep_photos: Whether to keep the photos too.
            days: How long an answer, its photo and its label are kept.
            most_bytes: Size of the database above which the oldest answers are deleted, unlabelled first.
            clock: Seconds since the epoch.
            on_drop: Called with a reason and a number of answers that were not stored: `backlog` if the disk
                was too slow, `failed`, or `duplicate` if an earlier answer has the same request id.
        """
        self._path, self._keep_photos, self._days = path, keep_photos, days
        self._most_bytes, self._clock, self._on_drop = most_bytes, clock, on_drop
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Row | None] = queue.Queue()
        self._counting, self._waiting_bytes = threading.Lock(), 0
        self._swept = float("-inf")
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self.failing = False
        """Whether the last batch could not be stored."""
        self.dropped = 0
        """Answers that were not stored."""
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)
        self._labellers, self._labelling = ThreadPoolExecutor(_LABELLERS, "labels"), 0

    def open(self) -> None:
        """Open or create the database, and start writing; a full or locked disk is tried again later.

        Raises:
            OSError: the file cannot be created or is not a database.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock:
                self._connection()
        except sqlite3.DatabaseError as error:
            if not getattr(error, "sqlite_errorname", "").startswith(_PASSING):
                raise OSError(
                    f"{self._path} is not a feedback database: {error}. Set SERVING_FEEDBACK to another path."
                ) from error
            self._failed(error)
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
            fits = self._waiting.qsize() < _MOST_WAITING
            fits = fits and self._waiting_bytes + size <= _MOST_WAITING_BYTES
            if fits:
                self._waiting_bytes += size
        if fits:
            self._waiting.put(row)
        else:
            self._drop("backlog", 1)

    async def receive(
        self, request_id: str, label: str, labels: Sequence[str]
    ) -> tuple[bool, tuple[int, int] | None]:
        """`label`, then `accuracy` (None if the disk fails just then), in threads of the store's own.

        Both wait for the disk, and nothing else may wait for them.

        Raises:
            Overloaded: too many labels are waiting.
            ServingError: as `label` does.
        """
        if self._labelling >= _MOST_LABELLING:
            raise Overloaded(
                f"{self._labelling} labels are waiting for the disk. Retry later.",
                retry_after_seconds=1,
                reason="queue-full",
            )
        loop = asyncio.get_running_loop()
        self._labelling += 1
        try:
            right = await loop.run_in_executor(self._labellers, self.label, request_id, label, labels)
            with contextlib.suppress(FeedbackUnavailable):
                return right, await loop.run_in_executor(self._labellers, self.accuracy)
            return right, None
        finally:
            self._labelling -= 1

    def label(self, request_id: str, label: str, labels: Sequence[str]) -> bool:
        """Store the right label; return whether the answer was right. The label is then on disk.

        Raises:
            UnknownLabel: the label is not one of `labels`.
            UnknownRequest: no answer is stored under this id.
            FeedbackUnavailable: the disk is full, too slow or gone.
        """
        if label not in labels:
            raise UnknownLabel(f"The label must be one of {', '.join(labels)}.")
        deadline = time.monotonic() + 2 * _BATCH_SECONDS
        while True:  # the answer may still be on its way to the disk
            with self._transaction() as transaction:
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
        """How many of the latest labelled answers were right, and how many there are.

        Raises:
            FeedbackUnavailable: the disk is too slow or gone.
        """
        with self._transaction() as transaction:
            right, count = transaction.execute(
                "select coalesce(sum(prediction = label), 0), count(*) from (select prediction, label "
                "from answers where label is not null order by labelled_at desc limit ?)",
                (WINDOW,),
            ).fetchone()
        return int(right), int(count)

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what is waiting and close the file, if it was opened, within a time."""
        if self._thread.ident is None:
            return
        ends = time.monotonic() + timeout_seconds
        self._labellers.shutdown(wait=False, cancel_futures=True)
        self._waiting.put(None)
        self._thread.join(timeout_seconds)
        if self._lock.acquire(timeout=max(0.0, ends - time.monotonic())):
            self._disconnect()
            self._lock.release()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction of a label, which does not wait long for the writer.

        Raises:
            FeedbackUnavailable: the disk is full, too slow or gone.
        """
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise FeedbackUnavailable("The disk of the stored answers is too slow now. Retry later.")
        try:
            with self._connection() as transaction:
                yield transaction
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise FeedbackUnavailable(
                "The stored answers cannot be read or written now. Retry later."
            ) from error
        finally:
            self._lock.release()

    def _connection(self) -> sqlite3.Connection:
        """The open database; it is opened again if its file was replaced. Call with the lock held."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._database is None or inode != self._inode:
            self._disconnect()
            self._database = connect(self._path)
            self._inode = self._path.stat().st_ino
        return self._database

    def _disconnect(self) -> None:
        """Close the database; the next use opens it, with its tables. Call with the lock held."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

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
            self._store_or_drop(answers)
            with self._counting:
                self._waiting_bytes -= sum(len(row[-1] or b"") for row in answers)

    def _store_or_drop(self, answers: list[Row]) -> None:
        try:
            with self._lock:
                stored = self._store(answers)
        except Exception as error:  # noqa: BLE001 (the thread must outlive any error of the disk)
            self._drop("failed", len(answers))
            self._failed(error)
            return
        self._drop("duplicate", len(answers) - stored)
        if self.failing:
            self.failing = False
            structlog.get_logger().info("feedback is stored again", dropped=self.dropped)

    def _failed(self, error: Exception) -> None:
        """Log the first of a series of failures."""
        if not self.failing:
            self.failing = True
            structlog.get_logger().error("feedback cannot be stored", exc_info=error)

    def _drop(self, reason: str, count: int) -> None:
        if count:
            with self._counting:
                self.dropped += count
            self._on_drop(reason, count)

    def _store(self, rows: list[Row]) -> int:
        """Store the answers whose request ids are new; return how many. Call with the lock held."""
        try:
            with self._connection() as transaction:
                stored = transaction.executemany(
                    "insert or ignore into answers (request_id, at, prediction, probability, version, "
                    "sha256, photo) values (?, ?, ?, ?, ?, ?, ?)",
                    rows,
                ).rowcount
                if time.monotonic() - self._swept >= _SWEEP_SECONDS:
                    self._swept = time.monotonic()
                    self._sweep(transaction)
        except sqlite3.Error:
            self._disconnect()
            raise
        return max(0, stored)

    def _sweep(self, transaction: sqlite3.Connection) -> None:
        """Delete what is too old, then the oldest until the size is within its limit."""
        oldest = self._clock() - 86400 * self._days
        transaction.execute("delete from answers where at < ?", (oldest,))
        while self._bytes(transaction) > self._most_bytes:
            deleted = transaction.execute(
                "delete from answers where request_id in (select request_id from answers "
                "order by label is not null, at limit 100)"
            ).rowcount
            if deleted == 0:
                break

    def _bytes(self, transaction: sqlite3.Connection) -> int:
        """Bytes in use: those of pages that are not free."""
        pages, free, size = (
            int(transaction.execute(f"pragma {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def _migrate(database: sqlite3.Connection) -> None:
    """Bring the schema to the present version; leave a later one as it is."""
    if _version(database) >= len(_MIGRATIONS):
        return
    database.execute("begin immediate")  # two releases may open it at once
    with database:
        for script in _MIGRATIONS[_version(database) :]:
            for statement in script.split(";"):
                database.execute(statement)
        database.execute(f"pragma user_version = {len(_MIGRATIONS)}")


def _version(database: sqlite3.Connection) -> int:
    if not database.execute("select 1 from sqlite_master where name = 'answers'").fetchone():
        return 0  # new, or somebody dropped the table
    return int(database.execute("pragma user_version").fetchone()[0])


def connect(path: Path) -> sqlite3.Connection:
    """The database with its tables; a commit is on disk before it returns."""
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute(f"pragma busy_timeout = {_BUSY_MS}")
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        _migrate(database)
    except sqlite3.Error:
        database.close()
        raise
    return database
