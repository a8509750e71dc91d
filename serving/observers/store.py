"""A SQLite file that one process writes in the background and reads on request, whatever its disk does.

`serving.observers.feedback` and `serving.observers.review` are such stores. A separate thread writes what
they are handed, in batches; what does not fit is dropped and counted, and nobody waits for it. The file is
opened again when it was replaced, or after an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import structlog

from serving.contract.errors import Overloaded, ServingError
from serving.observers.database import forget

T = TypeVar("T")
Row = TypeVar("Row")
BATCH_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 2.0
"""Longest wait of a request for the writer, which may itself be waiting for the disk."""
_MOST_WAITING: Final = 1000
_MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
_SWEEP_SECONDS: Final = 60.0
_THREADS: Final = 4
_MOST_CALLS: Final = 64
_PASSING: Final = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")
"""What does not stop the start of the service: the store is opened again with each batch."""


class Store(ABC, Generic[Row]):
    """A file, its lock, the thread that writes it, and the threads of those who ask."""

    name: ClassVar[str]
    """Of its setting, its threads and its lines in the log."""
    content: ClassVar[str]
    """What it holds, for a person."""
    unavailable: ClassVar[type[ServingError]]
    """Raised when the disk is full, too slow or gone."""

    def __init__(
        self,
        path: Path,
        *,
        on_drop: Callable[[str, int], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Prepare a store; `open` it before use.

        Args:
            path: The SQLite file.
            on_drop: Called with a reason and a number of rows that were not stored: `backlog` if the disk was
                too slow, `failed`, or one that `_write` returns.
            patience_seconds: Longest wait of a request for the writer.
        """
        self._path, self._on_drop, self._patience_seconds = path, on_drop, patience_seconds
        self._lock = threading.Lock()
        self._waiting: queue.Queue[tuple[Row, int] | threading.Event | None] = queue.Queue()
        self._counting, self._waiting_bytes = threading.Lock(), 0
        self._swept = float("-inf")
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self.failing = False
        """Whether the last batch could not be stored."""
        self.dropped = 0
        """Rows that were not stored."""
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._threads, self._calls = ThreadPoolExecutor(_THREADS, f"{self.name}-call"), 0

    @abstractmethod
    def _connect(self) -> sqlite3.Connection:
        """Open the file."""

    @abstractmethod
    def _write(self, transaction: sqlite3.Connection, rows: list[Row]) -> Mapping[str, int]:
        """Store rows, and return how many were not stored, by reason. Called with the lock held."""

    def _written(self) -> None:
        """Take note that what `_write` did is on disk. Called with the lock held."""

    @abstractmethod
    def _sweep(self, transaction: sqlite3.Connection) -> None:
        """Delete what is too old or too much. Called with the lock held."""

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
                    f"{self._path} is not a {self.name} database: {error}. Set SERVING_{self.name.upper()} "
                    "to another path."
                ) from error
            self._failed(error)
        self._thread.start()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what is waiting and close the file, if it was opened, within a time."""
        if self._thread.ident is None:
            return
        ends = time.monotonic() + timeout_seconds
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._waiting.put(None)
        self._thread.join(timeout_seconds)
        if self._lock.acquire(timeout=max(0.0, ends - time.monotonic())):
            self._disconnect()
            self._lock.release()

    def _offer(self, row: Row, size_bytes: int) -> None:
        """Hand a row to the writer, or drop it if too much is waiting; never blocks."""
        with self._counting:
            fits = self._waiting.qsize() < _MOST_WAITING
            fits = fits and self._waiting_bytes + size_bytes <= _MOST_WAITING_BYTES
            if fits:
                self._waiting_bytes += size_bytes
        if fits:
            self._waiting.put((row, size_bytes))
        else:
            self._drop("backlog", 1)

    def _flush(self) -> None:
        """Wait until all that was offered so far is stored or dropped.

        Raises:
            ServingError: the disk is too slow (`unavailable`).
        """
        done = threading.Event()
        self._waiting.put(done)
        if not done.wait(self._patience_seconds):
            raise self.unavailable(f"The disk of the {self.content} is too slow now. Retry later.")

    async def call(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking method in a thread of the store's own: it waits for the disk, and nobody else may.

        Raises:
            Overloaded: too many are waiting.
        """
        if self._calls >= _MOST_CALLS:
            raise Overloaded(
                f"{self._calls} requests are waiting for the disk of the {self.content}. Retry later.",
                retry_after_seconds=1,
                reason="queue-full",
            )
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._calls -= 1

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction of a request, which does not wait long for the writer.

        Raises:
            ServingError: the disk is full, too slow or gone (`unavailable`).
        """
        if not self._lock.acquire(timeout=self._patience_seconds):
            raise self.unavailable(f"The disk of the {self.content} is too slow now. Retry later.")
        try:
            with self._connection() as transaction:
                yield transaction
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self.unavailable(
                f"The {self.content} cannot be read or written now. Retry later."
            ) from error
        finally:
            self._lock.release()

    def erase(self) -> None:
        """Overwrite what was deleted before, in the write-ahead log too.

        Raises:
            ServingError: another process reads the file just now (`unavailable`).
        """
        with self.transaction() as transaction:
            if not forget(transaction):
                raise self.unavailable(f"Another process reads the {self.content} now. Retry later.")

    def _connection(self) -> sqlite3.Connection:
        """The open database; it is opened again if its file was replaced. Call with the lock held."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._database is None or inode != self._inode:
            self._disconnect()
            self._database = self._connect()
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
            taken = [self._waiting.get()]
            time.sleep(BATCH_SECONDS if isinstance(taken[0], tuple) else 0)
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(self._waiting.get_nowait())
            ended = None in taken
            batch = [item for item in taken if isinstance(item, tuple)]
            self._store_or_drop([row for row, _ in batch])
            with self._counting:
                self._waiting_bytes -= sum(size for _, size in batch)
            for item in taken:
                if isinstance(item, threading.Event):
                    item.set()

    def _store_or_drop(self, rows: list[Row]) -> None:
        try:
            with self._lock:
                dropped = self._store(rows)
        except Exception as error:  # noqa: BLE001 (the thread must outlive any error of the disk)
            self._drop("failed", len(rows))
            self._failed(error)
            return
        for reason, count in dropped.items():
            self._drop(reason, count)
        if self.failing:
            self.failing = False
            structlog.get_logger().info(f"{self.name} is stored again", dropped=self.dropped)

    def _store(self, rows: list[Row]) -> Mapping[str, int]:
        try:
            with self._connection() as transaction:
                dropped = self._write(transaction, rows)
                if time.monotonic() - self._swept >= _SWEEP_SECONDS:
                    self._swept = time.monotonic()
                    self._sweep(transaction)
        except Exception:
            self._disconnect()
            raise
        self._written()
        return dropped

    def _failed(self, error: Exception) -> None:
        """Log the first of a series of failures."""
        if not self.failing:
            self.failing = True
            structlog.get_logger().error(f"{self.name} cannot be stored", exc_info=error)

    def _drop(self, reason: str, count: int) -> None:
        if count:
            with self._counting:
                self.dropped += count
            self._on_drop(reason, count)
