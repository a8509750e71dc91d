"""Photos that are worth a person's minute, kept in a SQLite file with why, for `serving.http.review`.

As an observer, the queue keeps what is uncertain or unfamiliar, and of all photos a random sample. The shadow
hands it those on which it disagrees, `serving.service` those that a caller has called wrong. Photos that
look the same are kept once. It counts all answered photos too: with them the verdicts give the accuracy of
all (`serving.observers.review.verdicts`).
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event
from typing import Any, Final

from serving.contract.answer import Answer
from serving.contract.errors import ReviewUnavailable
from serving.observation import Observation
from serving.observers import database
from serving.observers.feedback import Stored
from serving.observers.fingerprints import Fingerprints
from serving.observers.review import schema, verdicts
from serving.observers.review.candidate import Candidate, reasons_at_sight
from serving.observers.review.schema import SAMPLE, SHADOW, TOLD_WRONG
from serving.observers.store import Store
from serving.telemetry.metrics import Metrics

_DAY_SECONDS: Final = 86400
_COUNTS_SECONDS: Final = 5.0
_AT_ONCE: Final = 10


class ReviewQueue(Store[Candidate]):
    """The photos, verdicts and counts of one process."""

    name, content, unavailable = "review", "photos for review", ReviewUnavailable

    def __init__(
        self,
        path: Path,
        metrics: Metrics,
        *,
        days: float,
        most_bytes: int,
        share: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a queue; `open` it before use.

        Args:
            path: The SQLite file.
            metrics: Where what is kept, dropped and waiting is counted.
            days: How long photos, verdicts and counts are kept.
            most_bytes: Size of the database above which photos are deleted, the last in the order of review
                first.
            share: Share of all answered photos that the random sample draws, 0 to 1.
            clock: Seconds since the epoch.
        """
        super().__init__(path, on_drop=lambda reason, count: metrics.review_dropped.labels(reason).inc(count))
        self._metrics, self._days, self._most_bytes = metrics, days, most_bytes
        self._share, self._clock = share, clock
        self._counts: Counter[tuple[int, str, str, bool]] = Counter()
        self._counts_due = float("-inf")
        self._marks: Fingerprints | None = None
        self._kept: Counter[str] = Counter()
        self._added = 0
        """Photos of this batch that the gauge does not have yet."""

    def open(self) -> None:
        """As `Store.open`; and publish how many photos wait."""
        super().open()
        with contextlib.suppress(ReviewUnavailable), self.transaction() as transaction:  # the log says why
            self.count_waiting(transaction)

    def observe(self, observation: Observation) -> None:
        """Count an answered photo, and keep it if it is worth it; never blocks."""
        answer = observation.answer
        if not isinstance(answer, Answer):
            return
        reasons = reasons_at_sight(answer)
        card, sha256 = observation.artifact.card, observation.artifact.sha256
        key = int(self._clock() // _DAY_SECONDS), sha256, card.version, bool(reasons)
        with self._counting:
            self._counts[key] += 1
        if random.random() < self._share:
            reasons = (*reasons, SAMPLE)
        if reasons:
            self._keep(Candidate.seen(observation, answer, self._clock(), reasons))
        elif time.monotonic() >= self._counts_due:
            self._counts_due = time.monotonic() + _COUNTS_SECONDS
            self._waiting.put(Event())  # lets the writer write the counts

    def keep_disagreement(self, observation: Observation) -> None:
        """Keep an answered photo on which the shadow disagrees; never blocks."""
        if isinstance(observation.answer, Answer):
            self._keep(Candidate.seen(observation, observation.answer, self._clock(), (SHADOW,), later=True))

    def keep_told_wrong(self, stored: Stored) -> None:
        """Keep a photo whose answer a caller has called wrong; never blocks.

        Without its bytes it is kept only if it already is, for another reason.
        """
        self._keep(Candidate(*stored[:-1], (TOLD_WRONG,), later=True, photo=stored.photo, pixels=None))

    def delete(self, request_id: str) -> None:
        """Delete the photos of a request, those that look the same, and what people said of them.

        When it returns, their bytes are in no file of the database.

        Raises:
            ReviewUnavailable: the disk is full, too slow or gone.
        """
        self._flush()
        with self.transaction() as transaction:
            transaction.execute("insert or replace into deletions values (?, ?)", (request_id, self._clock()))
            found = transaction.execute(
                f"select distinct coalesce(same_as, request_id) from photos where {database.OF_REQUEST}",  # noqa: S608
                {"id": request_id},
            ).fetchall()
            self._delete(transaction, (row[0] for row in found))
            self.count_waiting(transaction)
        self.erase()

    def count_waiting(self, transaction: sqlite3.Connection) -> None:
        """Publish how many photos wait for a verdict."""
        self._metrics.review_photos.set(verdicts.waiting(transaction))
        self._added = 0

    def _keep(self, found: Candidate) -> None:
        self._offer(found, found.size_bytes)

    def _connect(self) -> sqlite3.Connection:
        return schema.connect(self._path)

    def _disconnect(self) -> None:
        self._marks = None
        super()._disconnect()

    def _write(self, transaction: sqlite3.Connection, rows: list[Candidate]) -> Mapping[str, int]:
        with self._counting:
            counts, self._counts = self._counts, Counter()
        # Counts go with their batch, also when it fails: a time of which no photo is kept is not to count.
        transaction.executemany(
            "insert into counts values (?, ?, ?, ?, ?) "
            "on conflict do update set answered = answered + excluded.answered",
            [(*key, count) for key, count in counts.items()],
        )
        self._kept, self._added = Counter(), 0
        dropped: Counter[str] = Counter()
        for row in rows:
            reason = self._insert(transaction, row)
            if reason:
                dropped[reason] += 1
        return dropped

    def _written(self) -> None:
        for reason, count in self._kept.items():
            self._metrics.review_kept.labels(reason).inc(count)
        self._metrics.review_photos.inc(self._added)
        self._kept, self._added = Counter(), 0

    def _insert(self, transaction: sqlite3.Connection, row: Candidate) -> str:
        """Keep a photo, or add a reason to one that is kept; return why it was dropped, if it was."""
        ids = row.request_id, row.request_id.rpartition(".")[0]  # a photo of a list goes with its request
        if transaction.execute("select 1 from deletions where request_id in (?, ?)", ids).fetchone():
            return ""
        known = transaction.execute(
            "select reasons from photos where request_id = ?", (row.request_id,)
        ).fetchone()
        if known:
            if not row.later:
                return "same-id"
            reasons = known[0].split(",")
            new = [reason for reason in row.reasons if reason not in reasons]
            transaction.execute(
                "update photos set reasons = ? where request_id = ?",
                (",".join([*reasons, *new]), row.request_id),
            )
            self._kept.update(new)
            return ""
        if row.photo is None:
            return ""
        return self._insert_new(transaction, row, row.photo)

    def _insert_new(self, transaction: sqlite3.Connection, row: Candidate, photo: bytes) -> str:
        mark, rank = row.fingerprint(), random.getrandbits(schema.RANK_BITS)
        twin = self._twin(transaction, mark, rank) if mark else None
        transaction.execute(
            "insert into photos values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.request_id, row.at, row.prediction, row.probability, row.version, row.sha256),
                *(",".join(row.reasons), row.at_sight, SAMPLE in row.reasons, rank, rank, twin),
                *((None, None) if twin else (mark, photo)),
            ),
        )
        self._kept.update(row.reasons)
        if twin:
            return "duplicate"
        self._added += 1
        if mark:
            self._known_marks(transaction).add(row.request_id, mark)
        return ""

    def _twin(self, transaction: sqlite3.Connection, mark: bytes, rank: int) -> str | None:
        """The id of a kept photo that looks the same, which is then reviewed in the lower turn of the two."""
        while twin := self._known_marks(transaction).find(mark):
            if transaction.execute(
                "update photos set turn = min(turn, ?) where request_id = ?", (rank, twin)
            ).rowcount:
                return twin
            self._marks = None  # another process has deleted it
        return None

    def _known_marks(self, transaction: sqlite3.Connection) -> Fingerprints:
        if self._marks is None:
            self._marks = Fingerprints(
                transaction.execute("select request_id, hash from photos where hash is not null")
            )
        return self._marks

    def _sweep(self, transaction: sqlite3.Connection) -> None:
        """Delete what is too old, then the last in the order of review until the size is within its limit."""
        now = self._clock()
        oldest = now - _DAY_SECONDS * self._days
        old = transaction.execute("select request_id from photos where at < ?", (oldest,)).fetchall()
        self._delete(transaction, (row[0] for row in old))
        transaction.execute("delete from counts where day < ?", (int(oldest // _DAY_SECONDS),))
        for table in ("deletions", "ceilings"):
            transaction.execute(f"delete from {table} where at < ?", (oldest,))  # noqa: S608
        while database.used_bytes(transaction) > self._most_bytes:
            last = transaction.execute(
                f"select request_id, turn from photos where same_as is null "  # noqa: S608
                f"order by {verdicts.ANSWERED}, turn desc limit {_AT_ONCE}"
            ).fetchall()
            if not last:
                break
            self._delete(transaction, (request_id for request_id, _ in last))
            transaction.execute("insert into ceilings values (?, ?)", (now, min(turn for _, turn in last)))
        self.count_waiting(transaction)

    def _delete(self, transaction: sqlite3.Connection, ids: Iterable[str]) -> None:
        """Delete photos with those that look the same and their verdicts."""
        self._marks = None
        for request_id in ids:
            given: dict[str, Any] = {"id": request_id}
            transaction.execute("delete from photos where request_id = :id or same_as = :id", given)
            transaction.execute("delete from verdicts where request_id = :id", given)
