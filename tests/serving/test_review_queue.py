"""Photos worth a person's minute are kept once, within limits, whatever happens to the disk."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from serving.contract.errors import ConfigurationError, ReviewUnavailable, UnknownPhoto
from serving.contract.preprocess import preprocess
from serving.observers.feedback import Stored
from serving.observers.fingerprints import Fingerprints, fingerprint
from serving.observers.review import schema, strata, verdicts
from serving.observers.review.queue import ReviewQueue
from serving.settings import from_environment
from tests.serving.reviewing import jpeg, opened, pixels, seen
from tests.tiny import ROOT


def kept(tmp_path: Path) -> dict[str, str]:
    """The photos in the file, by id, with the reasons."""
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database:
        return dict(database.execute("select request_id, reasons from photos order by request_id").fetchall())


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """A value of the metrics."""
    return registry.get_sample_value(f"classifier_review_{name}", labels)


def told(request_id: str, photo: bytes | None) -> Stored:
    """An answer as the feedback stores it."""
    return Stored(request_id, time.time(), "cat", 0.99, "1", "0" * 64, photo)


def test_uncertain_and_unfamiliar_photos_are_kept_and_others_are_not(tmp_path: Path):
    """With every reason that holds; what is kept is counted by reason."""
    registry = CollectorRegistry()
    queue = opened(tmp_path, registry)
    queue.observe(seen("both", 1, unfamiliar=True))
    queue.observe(seen("one.2", 2))
    queue.observe(seen("sure", 3, uncertain=False, unfamiliar=None))
    queue.close()
    assert kept(tmp_path) == {"both": "uncertain,unfamiliar", "one.2": "uncertain"}
    assert sample(registry, "kept_total", reason="uncertain") == 2
    assert sample(registry, "kept_total", reason="unfamiliar") == 1
    assert sample(registry, "kept_total", reason="sample") == 0


def test_what_the_shadow_and_callers_contradict_is_kept_too(tmp_path: Path):
    """As a reason more for what is kept already; a photo that the feedback does not have is not made up."""
    queue = opened(tmp_path)
    queue.observe(seen("a", 1))
    queue.keep_disagreement(seen("a", 1))
    queue.keep_disagreement(seen("b", 2, uncertain=False))
    queue.keep_told_wrong(told("a", None))
    queue.keep_told_wrong(told("c", jpeg(3)))
    queue.keep_told_wrong(told("d", None))
    queue.close()
    assert kept(tmp_path) == {"a": "uncertain,shadow,told-wrong", "b": "shadow", "c": "told-wrong"}


def test_the_sample_has_the_share_that_is_set(tmp_path: Path):
    """Of 4,000 answered photos, within four standard errors, whatever else is a reason."""
    random.seed(1)
    queue = opened(tmp_path, share=0.05)
    for start in range(0, 4000, 500):
        for number in range(start, start + 500):
            queue.observe(seen(f"n{number}", number, uncertain=number % 10 == 0, photo=b"photo"))
        queue._flush()
    queue.close()
    reasons = kept(tmp_path).values()
    assert abs(sum("sample" in each for each in reasons) - 200) < 4 * (4000 * 0.05 * 0.95) ** 0.5
    assert sum("uncertain" in each for each in reasons) == 400
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database:
        assert [(each.at_sight, each.answered) for each in strata.strata(database)] == [
            (True, 400),
            (False, 3600),
        ]


def test_photos_that_look_the_same_are_kept_once_and_counted_each(tmp_path: Path):
    """Sent again, compressed once more or called wrong later: one has the bytes, and each is an answer."""
    registry = CollectorRegistry()
    queue = opened(tmp_path, registry)
    queue.observe(seen("a", 1))
    queue.observe(seen("again", 1, prediction="dog"))
    queue._flush()
    queue.keep_told_wrong(told("smaller", jpeg(1, quality=40)))
    queue.observe(seen("other", 2))
    queue.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database:
        found = database.execute(
            "select request_id, same_as, photo is null from photos order by 1"
        ).fetchall()
        assert found == [("a", None, 0), ("again", "a", 1), ("other", None, 0), ("smaller", "a", 1)]
        assert strata.strata(database)[0].answered == 3
        assert database.execute(
            "select turn = (select min(rank) from photos where 'a' in (request_id, same_as)) "
            "from photos where request_id = 'a'"
        ).fetchone() == (1,)
    assert sample(registry, "dropped_total", reason="duplicate") == 2


def test_the_hash_knows_a_photo_after_compression_and_no_other():
    """32 bytes of each of 60 pictures; plain pictures must agree in the few steps that they have."""
    known = Fingerprints()
    for seed in range(60):
        assert known.find(fingerprint(pixels(seed))) is None
        known.add(str(seed), fingerprint(pixels(seed)))
    for seed in range(60):
        again = preprocess(jpeg(seed, quality=50), 224).pixels
        assert known.find(fingerprint(again)) == str(seed)
    plain = Fingerprints()
    for top in range(0, 48, 8):
        drawn = np.zeros((3, 64, 64), np.uint8)
        drawn[:, top : top + 8, 20:28] = 255
        assert plain.find(fingerprint(drawn)) is None
        plain.add(str(top), fingerprint(drawn))


def test_an_id_that_is_sent_twice_keeps_the_first_photo(tmp_path: Path):
    """The second is dropped and counted."""
    registry = CollectorRegistry()
    queue = opened(tmp_path, registry)
    queue.observe(seen("a", 1))
    queue.observe(seen("a", 2, unfamiliar=True))
    queue.close()
    assert kept(tmp_path) == {"a": "uncertain"}
    assert sample(registry, "dropped_total", reason="same-id") == 1


def answer(queue: ReviewQueue, request_id: str, reviewer: str = "ada", label: str | None = "cat") -> None:
    """Give a verdict."""
    with queue.transaction() as transaction:
        verdicts.give(transaction, request_id, reviewer, "label" if label else "neither", label, 1e9)


def test_a_deletion_leaves_no_byte_in_any_file(tmp_path: Path):
    """The photo, those that look the same, verdicts, and all photos of a list; other requests stay."""
    queue = opened(tmp_path)
    marks = {name: f"-{name}-".encode() * 3000 for name in ("mine", "mine.2", "mine.x", "other")}
    for seed, (name, mark) in enumerate(marks.items()):
        queue.observe(seen(name, seed, photo=jpeg(seed) + mark))
    queue.observe(seen("looks-alike", 0))
    queue._flush()
    answer(queue, "mine", "Grace-Hopper")
    queue.delete("mine")

    def bytes_of_all_files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    held = bytes_of_all_files()
    assert [name for name, mark in marks.items() if mark[:64] in held] == ["mine.x", "other"]
    assert b"Grace-Hopper" not in held
    assert b"looks-alike" not in held
    queue.delete("mine")
    queue.delete("never-was")
    assert set(kept(tmp_path)) == {"mine.x", "other"}
    queue.close()


def test_what_was_deleted_does_not_come_back(tmp_path: Path):
    """The shadow may still be at it, or a photo of the request's list."""
    queue = opened(tmp_path)
    queue.observe(seen("a", 1))
    queue.delete("a")
    queue.keep_disagreement(seen("a", 1))
    queue.keep_disagreement(seen("a.3", 1))
    queue.keep_disagreement(seen("b", 1))
    queue.close()
    assert kept(tmp_path) == {"b": "shadow"}


def test_a_twin_deletes_the_photo_that_stands_for_it(tmp_path: Path):
    """It shows the same, so its sender's picture would stay."""
    queue = opened(tmp_path)
    queue.observe(seen("a", 1))
    queue.observe(seen("twin", 1))
    queue.delete("twin")
    queue.close()
    assert kept(tmp_path) == {}


def test_old_photos_are_deleted_with_verdicts_and_counts(tmp_path: Path):
    """After the days that the operator sets, and not before."""
    now = [1_000_000.0]
    queue = opened(tmp_path, days=2, clock=lambda: now[0])

    def sweep(name: str, seed: int) -> set[str]:
        queue._swept = float("-inf")
        queue.observe(seen(name, seed))
        queue._flush()
        return set(kept(tmp_path))

    sweep("old", 1)
    answer(queue, "old")
    now[0] += 1.9 * 86400
    assert sweep("next", 2) == {"old", "next"}
    now[0] += 1.2 * 86400
    assert sweep("last", 3) == {"next", "last"}
    with queue.transaction() as transaction:
        assert transaction.execute("select count(*) from verdicts").fetchone() == (0,)
        assert strata.strata(transaction)[0].answered == 2
    queue.close()


def test_the_file_is_bounded_and_the_last_in_line_go_first(tmp_path: Path):
    """Of 300 photos of 20 KB in 2 MB, those of the lowest ranks and those with a verdict are left."""
    queue = opened(tmp_path, most_bytes=2_000_000)
    queue.observe(seen("reviewed", 999))
    queue._flush()
    answer(queue, "reviewed")
    for number in range(300):
        queue.observe(seen(f"n{number}", number, photo=os.urandom(20_000)))
        if number % 100 == 99:
            queue._flush()
    with queue.transaction() as transaction:
        everyone = dict(transaction.execute("select request_id, turn from photos").fetchall())
    queue._swept = float("-inf")
    queue.observe(seen("reviewed", 999))
    queue._flush()
    left = set(kept(tmp_path)) - {"reviewed"}
    assert 0 < len(left) < 100
    gone = [everyone[name] for name in everyone.keys() - left - {"reviewed"}]
    assert max(everyone[name] for name in left) < min(gone)
    with queue.transaction() as transaction:
        assert transaction.execute("select min(turn) from ceilings").fetchone() == (min(gone),)
    queue.close()


def test_a_flood_is_dropped_and_counted(tmp_path: Path):
    """A stalled disk costs photos, not memory, and the service never waits."""
    registry = CollectorRegistry()
    queue = opened(tmp_path, registry)
    with queue._lock:  # stalls the writer
        for number in range(100):
            queue.observe(seen(f"n{number}", number, photo=bytes(1_000_000)))
    queue.close()
    assert sample(registry, "dropped_total", reason="backlog") >= 100 - 68


def test_a_full_disk_costs_photos_and_one_line_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is kept stays readable; when there is space again, photos are kept again."""
    registry = CollectorRegistry()
    queue = opened(tmp_path, registry)
    queue.observe(seen("before", 1))
    queue._flush()
    full = [True]

    def connecting(path: Path) -> sqlite3.Connection:
        database = schema_connect(path)
        if full:
            database.execute("pragma max_page_count = 1")  # what there is now, and no more
        return database

    schema_connect = schema.connect
    monkeypatch.setattr(schema, "connect", connecting)
    with structlog.testing.capture_logs() as lines:
        with queue._lock:
            queue._disconnect()
        for number in (2, 3):
            queue.observe(seen(f"n{number}", number, photo=os.urandom(200_000)))
            queue._flush()
        with queue.transaction() as transaction:
            assert verdicts.photo(transaction, "before") == jpeg(1)
        full.clear()
        with queue._lock:
            queue._disconnect()
        queue.observe(seen("after", 2))
        queue.close()
    assert [line["event"] for line in lines] == ["review cannot be stored", "review is stored again"]
    assert set(kept(tmp_path)) == {"before", "after"}
    assert sample(registry, "dropped_total", reason="failed") == 2


def test_a_file_that_is_deleted_is_made_again(tmp_path: Path):
    """What looked the same as a photo of the old file is kept with its bytes."""
    queue = opened(tmp_path)
    queue.observe(seen("a", 1))
    queue._flush()
    for path in tmp_path.iterdir():
        path.unlink()
    queue.observe(seen("b", 1))
    queue._flush()
    with queue.transaction() as transaction:
        assert verdicts.photo(transaction, "b") == jpeg(1)
        with pytest.raises(UnknownPhoto):
            verdicts.photo(transaction, "a")
    queue.close()


def test_what_another_process_deleted_stands_for_no_photo(tmp_path: Path):
    """During a deploy two releases use the file: one has deleted the photo that the other knows."""
    registry = CollectorRegistry()
    queue, other = opened(tmp_path), opened(tmp_path, registry)
    queue.observe(seen("a", 1))
    queue._flush()
    other.delete("a")
    queue.observe(seen("b", 1))
    queue._flush()
    with queue.transaction() as transaction:
        assert verdicts.photo(transaction, "b") == jpeg(1)
    queue.close()
    other.close()


def test_photos_that_wait_are_counted_from_the_start(tmp_path: Path):
    """Also those of an earlier process."""
    queue = opened(tmp_path)
    for seed in range(3):
        queue.observe(seen(f"n{seed}", seed))
    queue._flush()
    answer(queue, "n0")
    queue.close()
    registry = CollectorRegistry()
    opened(tmp_path, registry).close()
    assert sample(registry, "photos") == 2


def test_a_deletion_that_another_process_holds_up_is_to_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A backup may be reading the write-ahead log: the caller learns that bytes may be left in it."""
    monkeypatch.setattr("serving.observers.database.connect.__defaults__", (100,))
    queue = opened(tmp_path)
    queue.observe(seen("a", 1))
    queue._flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as other:
        other.execute("begin")
        assert other.execute("select count(*) from photos").fetchone() == (1,)
        with pytest.raises(ReviewUnavailable, match="Another process reads"):
            queue.delete("a")
    queue.delete("a")
    queue.close()


KILLED = """
import itertools, sys
from pathlib import Path
from tests.serving.reviewing import opened, seen
queue = opened(Path(sys.argv[1]), share=0.5)
for number in itertools.count():
    queue.observe(seen(f"n{number}", number))
    if number % 50 == 49:
        queue._flush()
        print(number, flush=True)
"""


def test_a_kill_loses_no_photo_that_was_stored(tmp_path: Path):
    """SIGKILL while it writes: each photo of a batch that was stored is there, whole, and counted."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        stored = [int(process.stdout.readline()) for _ in range(3)][-1]
        process.kill()
    queue = opened(tmp_path)
    with queue.transaction() as transaction:
        for number in range(stored + 1):
            assert verdicts.photo(transaction, f"n{number}") == jpeg(number)
        assert strata.strata(transaction)[0].answered > stored
        assert transaction.execute("pragma integrity_check").fetchone() == ("ok",)
    queue.close()


def test_counts_reach_the_disk_though_no_photo_is_kept(tmp_path: Path):
    """Every few seconds, and at the end."""
    queue = opened(tmp_path)
    written = threading.Event()
    queue._written = written.set
    queue.observe(seen("a", 1, uncertain=False))
    assert written.wait(10)
    queue.observe(seen("b", 1, uncertain=False))
    queue.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database:
        assert [(each.at_sight, each.answered) for each in strata.strata(database)] == [(False, 2)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SERVING_REVIEW": "r.db"}, "SERVING_REVIEW needs SERVING_API_KEY"),
        (
            {"SERVING_REVIEW": "x.db", "SERVING_FEEDBACK": "x.db", "SERVING_API_KEY": "k"},
            r"SERVING_REVIEW and SERVING_FEEDBACK are both x\.db",
        ),
        ({"SERVING_REVIEW_SHARE": "1.5"}, "SERVING_REVIEW_SHARE='1.5' is not valid"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_start(environment: dict[str, str], message: str):
    """Photos are not kept where anyone may look at them."""
    with pytest.raises(ConfigurationError, match=message):
        from_environment(environment)


def test_another_file_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The error names the setting."""
    (tmp_path / "r.db").write_text("dear diary, " * 100)
    with pytest.raises(OSError, match=r"is not a review database: .* Set SERVING_REVIEW to another path"):
        opened(tmp_path)
    assert (tmp_path / "r.db").read_text().startswith("dear diary")


def test_migrations_only_add():
    """Nothing that the release before needs may go, or a rollback would fail."""
    for script in schema.MIGRATIONS:
        for statement in script.strip().split(";"):
            assert statement.strip().startswith(
                ("create table if not exists", "create index if not exists", "alter table")
            )


def test_the_gauge_follows_each_batch(tmp_path: Path):
    """An operator does not wait for the next sweep; a photo that looks like a kept one adds nothing."""
    registry = CollectorRegistry()
    queue = opened(tmp_path, registry)
    for number, seed in enumerate((1, 2, 3, 3)):
        queue.observe(seen(f"r{number}", seed))
        queue._flush()
    assert registry.get_sample_value("classifier_review_photos") == 3
    queue.close()
