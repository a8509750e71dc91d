"""Labels are stored within limits, counted and exported, and they survive a kill."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import math
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from PIL import Image

from serving.__main__ import main
from serving.contract.answer import Answer
from serving.contract.artifact import Artifact
from serving.contract.errors import BrokenImage, FeedbackUnavailable, Overloaded, UnknownLabel, UnknownRequest
from serving.observation import Observation
from serving.observers import feedback
from serving.observers.feedback import Feedback, connect
from serving.settings import Settings
from tests import processes, tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene

KEY = {"X-API-Key": "secret"}
LABELS = ["cat", "dog"]


@pytest.fixture
def labelling(model: Path, tmp_path: Path) -> Iterator[Client]:
    """A service that stores answers and photos."""
    settings = Settings(
        model=str(model),
        workers=1,
        api_key="secret",
        feedback=str(tmp_path / "f.db"),
        feedback_photos=True,
        max_body_bytes=1_000_000,
    )
    with running(settings) as client:
        yield client


def ask(client: Client, request_id: str, **options: object) -> str:
    """Request one answer under an id; return its label."""
    headers = KEY | {"X-Request-ID": request_id}
    reply = client.post("/predict", content=encode(scene(**options)), headers=headers)
    assert reply.status_code == 200
    return str(reply.json()["prediction"])


def send_label(client: Client, request_id: object, label: object) -> httpx.Response:
    """Send one label."""
    return client.post("/feedback", json={"request_id": request_id, "label": label}, headers=KEY)


def test_labels_become_a_live_accuracy(labelling: Client):
    """Two right, one wrong, then that one corrected: 2 of 3, then 3 of 3."""
    registry = labelling.app.state.service.metrics.registry

    def accuracy() -> float:
        return registry.get_sample_value("classifier_feedback_accuracy_ratio")

    assert math.isnan(accuracy())
    answers = {name: ask(labelling, name) for name in ("a", "b", "c")}
    other = "dog" if answers["c"] == "cat" else "cat"
    assert send_label(labelling, "a", answers["a"]).json() == {"was_right": True}
    assert send_label(labelling, "b", answers["b"]).json() == {"was_right": True}
    assert send_label(labelling, "c", other).json() == {"was_right": False}
    assert accuracy() == pytest.approx(2 / 3)
    assert send_label(labelling, "c", answers["c"]).json() == {"was_right": True}
    assert (accuracy(), registry.get_sample_value("classifier_feedback_window_labels")) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"request_id": "none", "label": "cat"}, 404, "unknown-request"),
        ({"request_id": "a", "label": "fish"}, 422, "unknown-label"),
        ({"request_id": "a"}, 400, "malformed-feedback"),
        ([], 400, "malformed-feedback"),
        ({"request_id": 7, "label": "cat"}, 400, "malformed-feedback"),
        (b"", 400, "malformed-feedback"),
        (b'{"request_id": "a", ', 400, "malformed-feedback"),
        (bytes(1_000_001), 413, "body-too-large"),
        ({"request_id": "' or 1=1 --", "label": "cat"}, 404, "unknown-request"),
    ],
)
def test_feedback_that_cannot_be_stored_is_refused(
    labelling: Client, body: object, status: int, problem: str
):
    """The problem names the cause, and nothing is stored."""
    ask(labelling, "a")
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    reply = labelling.post("/feedback", headers=KEY, **sent)
    assert (reply.status_code, reply.json()["type"]) == (status, f"/problems/{problem}")
    assert labelling.app.state.service.feedback.accuracy() == (0, 0)


def test_feedback_needs_the_key_and_must_be_switched_on(labelling: Client, client: Client):
    """401 without the key; 404 if the operator stores nothing."""
    assert labelling.post("/feedback", json={}).status_code == 401
    reply = client.post("/feedback", json={"request_id": "a", "label": "cat"})
    assert (reply.status_code, reply.json()["type"]) == (404, "/problems/feedback-off")


def test_labelled_photos_become_training_data(
    labelling: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The bytes that were sent, in the folder of the right label; unlabelled ones stay out."""
    for name in ("a", "b", "c"):
        ask(labelling, name, width=100)
    send_label(labelling, "a", "dog")
    send_label(labelling, "b", "cat")
    out = tmp_path / "out"
    assert main(["export-feedback", str(tmp_path / "f.db"), str(out)]) == 0
    assert "2 labelled answers, 2 with their photo" in capsys.readouterr().out
    assert (out / "dog/a.jpeg").read_bytes() == encode(scene(width=100))
    assert Image.open(io.BytesIO((out / "cat/b.jpeg").read_bytes())).width == 100
    rows = list(csv.DictReader((out / "labels.csv").read_text().splitlines()))
    assert [(row["request_id"], row["label"], row["path"]) for row in rows] == [
        ("a", "dog", "dog/a.jpeg"),
        ("b", "cat", "cat/b.jpeg"),
    ]
    assert main(["export-feedback", str(tmp_path / "none.db"), str(out)]) == 2
    assert "There is no feedback database" in capsys.readouterr().err


def opened(tmp_path: Path, **options: object) -> Feedback:
    """An open store."""
    usual = {"keep_photos": False, "days": 30, "most_bytes": 10**9}
    store = Feedback(tmp_path / "f.db", **usual | options)
    store.open()
    return store


def store_answers(store: Feedback, *names: str, photo: bytes = b"photo") -> None:
    """Store answers, all of them cats."""
    answer = Answer(
        "cat", 0.9, {"cat": 0.9, "dog": 0.1}, uncertain=False, unfamiliar=None, feature_distance=None
    )
    artifact = Artifact(tiny.card(), [], "0" * 64)
    for name in names:
        store.observe(Observation(name, photo, BrokenImage("not decoded here"), answer, artifact, {}, {}))


def test_photos_are_stored_only_if_the_operator_says_so(tmp_path: Path):
    """By default the bytes are not in the file."""
    store = opened(tmp_path)
    store_answers(store, "a", photo=b"a-private-photo")
    assert store.label("a", "cat", LABELS)
    store.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"a-private-photo" not in stored


def test_old_answers_are_deleted(tmp_path: Path):
    """After the days that the operator sets, labelled or not, and not before."""
    now = [1_000_000.0]
    store = opened(tmp_path, days=2, clock=lambda: now[0])
    store_answers(store, "old")
    store.label("old", "cat", LABELS)
    now[0] += 1.9 * 86400
    store._swept = float("-inf")
    store_answers(store, "next")
    store.label("next", "cat", LABELS)
    assert store.accuracy() == (2, 2)
    now[0] += 0.2 * 86400
    store._swept = float("-inf")
    store_answers(store, "last")
    store.label("last", "dog", LABELS)
    assert store.accuracy() == (1, 2)
    with pytest.raises(UnknownRequest):
        store.label("old", "cat", LABELS)
    store.close()


def test_the_file_is_bounded_and_labels_go_last(tmp_path: Path):
    """Of 300 photos of 20 KB in 2 MB, the oldest unlabelled ones are deleted first."""
    store = opened(tmp_path, keep_photos=True, most_bytes=2_000_000)
    store_answers(store, "labelled", photo=os.urandom(20_000))
    store.label("labelled", "cat", LABELS)
    for number in range(300):
        store_answers(store, f"n{number}", photo=os.urandom(20_000))
        if number % 100 == 99:
            time.sleep(0.3)
    store._swept = float("-inf")
    store_answers(store, "after")
    assert store.label("after", "cat", LABELS)
    with pytest.raises(UnknownRequest):
        store.label("n0", "cat", LABELS)
    assert store.label("labelled", "cat", LABELS)
    assert store.dropped == 0
    store.close()


def test_a_flood_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stalled disk costs answers, not memory, and the service never waits."""
    store = opened(tmp_path, keep_photos=True)
    with store._lock:  # stalls the writer
        photo = bytes(1_000_000)
        for number in range(100):
            store_answers(store, f"n{number}", photo=photo)
    assert store.dropped >= 100 - 68
    store.close()


def stored(tmp_path: Path) -> list[tuple[object, ...]]:
    """The answers in the file: id, prediction and label."""
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as database:
        return database.execute("select request_id, prediction, label from answers").fetchall()


def test_a_later_schema_is_reached_and_the_release_before_still_works_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A database of any age is brought up to date, with its rows; after a rollback it is used as it is."""
    store = opened(tmp_path)
    store_answers(store, "a")
    store.label("a", "dog", LABELS)
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as database:
        assert database.execute("pragma user_version").fetchone() == (1,)
        database.execute("pragma user_version = 0")  # as a version without migrations left it
    later = (*feedback._MIGRATIONS, "alter table answers add column reviewer text; create table extra (x)")
    with monkeypatch.context() as patch:
        patch.setattr(feedback, "_MIGRATIONS", later)
        store = opened(tmp_path)
        store_answers(store, "b")
        store.label("b", "cat", LABELS)
        store.close()
    store = opened(tmp_path)
    store_answers(store, "c")
    assert store.label("c", "cat", LABELS)
    store.close()
    assert [row[0] for row in stored(tmp_path)] == ["a", "b", "c"]
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as database:
        assert database.execute("pragma user_version").fetchone() == (2,)
        assert database.execute("select reviewer from answers").fetchall() == [(None,)] * 3


def test_migrations_only_add():
    """Nothing that the release before needs may go, or a rollback would fail."""
    for script in feedback._MIGRATIONS:
        for statement in script.strip().split(";"):
            assert re.match(
                r"\s*(create (table|index) if not exists|alter table \w+ add column)\b", statement
            )


def test_an_id_that_is_sent_twice_keeps_the_first_answer_and_its_label(tmp_path: Path):
    """The caller chooses the id; a later answer under it is dropped and counted, in one batch or another."""
    drops: list[tuple[str, int]] = []
    store = opened(tmp_path, on_drop=lambda *drop: drops.append(drop))
    store_answers(store, "a", "a")
    assert store.label("a", "dog", LABELS) is False
    store_answers(store, "a", "b")
    assert store.label("b", "cat", LABELS) is True
    store.close()
    assert stored(tmp_path) == [("a", "cat", "dog"), ("b", "cat", "cat")]
    assert (drops, store.dropped) == ([("duplicate", 1), ("duplicate", 1)], 2)


def test_a_table_that_is_gone_is_made_again(tmp_path: Path):
    """The label is refused as unavailable and the answers are lost, until the next use makes it."""
    store = opened(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as other:
        other.execute("drop table answers")
    with pytest.raises(FeedbackUnavailable):
        store.label("a", "cat", LABELS)
    store_answers(store, "b")
    assert store.label("b", "cat", LABELS)
    store.close()


def test_a_file_that_is_deleted_is_made_again(tmp_path: Path):
    """Labels do not go into a file that nobody can open any more."""
    store = opened(tmp_path)
    store_answers(store, "a")
    assert store.label("a", "cat", LABELS)
    for path in tmp_path.iterdir():
        path.unlink()
    store_answers(store, "b")
    assert store.label("b", "cat", LABELS)
    store.close()
    assert stored(tmp_path) == [("b", "cat", "cat")]


def test_a_database_that_another_process_locks_costs_answers_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Answers that cannot be written are counted, labels are refused soon, and both work afterwards."""
    monkeypatch.setattr("serving.observers.feedback._BUSY_MS", 100)
    monkeypatch.setattr("serving.observers.feedback._PATIENCE_SECONDS", 0.3)
    drops: list[tuple[str, int]] = []
    failed = threading.Event()
    store = opened(tmp_path, on_drop=lambda *drop: (drops.append(drop), failed.set()))
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as other:
        other.execute("begin immediate")
        began = time.monotonic()
        with structlog.testing.capture_logs() as lines:
            store_answers(store, "a")
            with pytest.raises(FeedbackUnavailable):
                store.label("a", "cat", LABELS)
            assert time.monotonic() - began < 2
            assert failed.wait(5)
        other.rollback()
    assert drops == [("failed", 1)]
    assert [line["event"] for line in lines] == ["feedback cannot be stored"]
    with structlog.testing.capture_logs() as lines:
        store_answers(store, "b")
        assert store.label("b", "cat", LABELS)
        store.close()
    assert [line["event"] for line in lines] == ["feedback is stored again"]


def test_a_full_disk_costs_answers_and_one_line_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However often it fails; when there is space again, one more line says so."""
    drops: list[tuple[str, int]] = []
    store = opened(tmp_path, keep_photos=True, on_drop=lambda *drop: drops.append(drop))
    full = [True]

    def connecting(path: Path) -> sqlite3.Connection:
        database = connect(path)
        if full:
            database.execute("pragma max_page_count = 1")  # what there is now, and no more
        return database

    monkeypatch.setattr("serving.observers.feedback.connect", connecting)
    with structlog.testing.capture_logs() as lines:
        with store._lock:
            store._disconnect()
        for name in ("a", "b", "c"):
            store_answers(store, name, photo=bytes(200_000))
            deadline = time.monotonic() + 5
            while store._waiting_bytes:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        assert drops == [("failed", 1)] * 3
        with pytest.raises(UnknownRequest):
            store.label("a", "cat", LABELS)
        full.clear()
        with store._lock:
            store._disconnect()
        store_answers(store, "d", photo=bytes(200_000))
        assert store.label("d", "cat", LABELS)
        store.close()
    assert [line["event"] for line in lines] == ["feedback cannot be stored", "feedback is stored again"]


def test_a_disk_that_fails_is_a_problem_that_callers_can_read(labelling: Client, tmp_path: Path):
    """503 with its own code and a line in the log; /predict answers meanwhile."""
    ask(labelling, "a")
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as other:
        other.execute("drop table answers")
    with structlog.testing.capture_logs() as lines:
        reply = send_label(labelling, "a", "cat")
    assert (reply.status_code, reply.json()["type"].rsplit(":")[-1].rsplit("/")[-1]) == (
        503,
        "feedback-unavailable",
    )
    (line,) = [line for line in lines if line.get("outcome") == "feedback-unavailable"]
    assert (line["route"], line["status"]) == ("/feedback", 503)
    assert "no such table" in line["cause"]
    ask(labelling, "b")
    assert send_label(labelling, "b", "cat").status_code == 200


def test_a_file_of_an_earlier_release_is_continued(tmp_path: Path):
    """Its answers and labels are there, and a new answer under an old id changes neither."""
    schema = (
        "create table answers (request_id text primary key, at real not null, prediction text not null, "
        "probability real not null, version text not null, sha256 text not null, photo blob, label text, "
        "labelled_at real)"
    )
    now = time.time()
    with contextlib.closing(sqlite3.connect(tmp_path / "f.db")) as old:
        old.execute(schema)
        old.execute("insert into answers values ('a', ?, 'dog', 0.9, '1', 's', null, 'dog', ?)", (now, now))
        old.commit()
    store = opened(tmp_path)
    assert store.accuracy() == (1, 1)
    store_answers(store, "a", "b")
    assert store.label("b", "dog", LABELS) is False
    store.close()
    assert stored(tmp_path) == [("a", "dog", "dog"), ("b", "cat", "dog")]


def test_too_many_labels_at_once_are_refused(tmp_path: Path):
    """Each waits for the disk in a thread of the store; callers beyond a bound learn at once to retry."""
    store = opened(tmp_path)

    async def send() -> list[object]:
        calls = [store.receive("a", "cat", LABELS) for _ in range(70)]
        return await asyncio.gather(*calls, return_exceptions=True)

    store_answers(store, "a")
    replies = asyncio.run(send())
    assert sum(isinstance(reply, Overloaded) for reply in replies) == 6
    assert sum(isinstance(reply, tuple) and reply[0] is True for reply in replies) == 64
    store.close()


def test_an_unknown_label_is_refused(tmp_path: Path):
    """The error names the known ones."""
    store = opened(tmp_path)
    with pytest.raises(UnknownLabel, match="cat, dog"):
        store.label("a", "bird", LABELS)
    store.close()


def test_another_file_is_not_overwritten(model: Path, tmp_path: Path):
    """If the path holds something else, the start fails, the reason names it, and the file is unchanged."""
    path = tmp_path / "letter.txt"
    path.write_text("dear diary, " * 100)
    settings = Settings(model=str(model), workers=1, api_key="secret", feedback=str(path))
    with running(settings, until="failed") as client:
        assert "is not a feedback database" in client.get("/health").json()["reason"]
    assert path.read_text().startswith("dear diary")


@pytest.mark.slow
def test_a_label_survives_a_kill(model: Path, tmp_path: Path, environment: Callable[..., dict[str, str]]):
    """SIGKILL right after the 200: the label is there, and the next process counts it."""
    settings = environment(
        MODEL=str(model), SERVING_API_KEY="secret", SERVING_FEEDBACK=str(tmp_path / "f.db")
    )
    with processes.service(settings) as process:
        process.wait_for("ready")
        with httpx.Client(base_url=process.url, headers=KEY) as client:
            headers = {"X-Request-ID": "mine"}
            answer = client.post("/predict", content=encode(scene()), headers=headers).json()
            sent = {"request_id": "mine", "label": answer["prediction"]}
            assert client.post("/feedback", json=sent).status_code == 200
            process.popen.send_signal(signal.SIGKILL)
            process.popen.wait(10)
    with processes.service(settings) as process:
        process.wait_for("ready")
        text = httpx.get(f"{process.url}/metrics", headers=KEY).text
    assert "classifier_feedback_accuracy_ratio 1.0" in text
    assert "classifier_feedback_window_labels 1.0" in text
    with sqlite3.connect(tmp_path / "f.db") as database:
        assert database.execute("select label from answers").fetchall() == [(answer["prediction"],)]
    database.close()
