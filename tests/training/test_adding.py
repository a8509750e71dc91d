"""What a service has collected joins the photos: to train on, or as the test set of production."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from common.errors import PipelineError
from common.production import since
from serving.observers import feedback
from serving.observers.review import verdicts
from tests.serving.reviewing import jpeg, opened, seen
from training.__main__ import main
from training.photos import adding
from training.photos.report import Report, read
from training.place import Place

PLACE = Place()
"""The current folder, which is empty in each test."""
HEADER = "request_id,at,prediction,probability,version,reasons,verdicts,path\n"


@pytest.fixture
def fetched(workplace: Path) -> Path:
    """Three cats and two dogs that were fetched before."""
    for number in range(5):
        path = PLACE.raw / ("cat" if number < 3 else "dog") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    PLACE.fetch_report.write_text(
        '{"source": "folder", "name": "pets", "sha256": "0", "bytes": 1, "files": {"cat": 3, "dog": 2}}'
    )
    return workplace


def export(folder: Path, **photos: int) -> Path:
    """An export of a review: photos by folder, `__` for a slash, each answered on the day of its seed."""
    rows = HEADER
    for place, seed in photos.items():
        name = f"{place.replace('__', '/')}/id-{seed}.jpeg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(seed))
        at = datetime(2026, 11, seed % 30 + 1, tzinfo=UTC).timestamp()
        rows += f"id-{seed},{at},cat,0.6,v{seed % 2},sample,ann: {name.split('/')[1]}; b: c: dog,{name}\n"
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_text(rows)
    return folder


def feedback_of_a_cat(folder: Path) -> Path:
    """A feedback database in which a caller says that photo 10 shows a cat."""
    path = folder / "f.db"
    with contextlib.closing(feedback.connect(path)) as database, database:
        row = ("id-10", time.time(), "cat", 0.9, "v1", "0" * 64, jpeg(10), "cat", time.time())
        database.execute("insert into answers values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    return path


def add(source: object) -> Report:
    """Add a source, as the command does."""
    report = adding.add(str(source), PLACE)
    assert report is not None
    return report


def raw() -> dict[str, bytes]:
    """The files in data/raw with their bytes."""
    files = (path for path in PLACE.raw.rglob("*") if path.is_file())
    return {path.relative_to(PLACE.raw).as_posix(): path.read_bytes() for path in files}


def state() -> tuple[dict[str, bytes], str, list[str]]:
    """All that a failed addition must leave as it was."""
    return raw(), PLACE.fetch_report.read_text(), sorted(path.name for path in Path("data").iterdir())


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("packed", [False, True])
def test_a_review_is_added_to_train_on_and_as_a_test_set(
    packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Each in folders of its own; what is apart is counted, and its provenance names nobody."""
    source = export(
        tmp_path / "reviewed", train__cat=10, train__dog=11, production__dog=12, apart__neither=13
    )
    if packed:
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "reviewed"))
    before = raw()
    report = add(source)
    (trained, drawn) = report.added[0].files
    assert trained.startswith("added-")
    assert raw() == before | {
        f"cat/{trained}/id-10.jpeg": jpeg(10),
        f"dog/{trained}/id-11.jpeg": jpeg(11),
        f"dog/{drawn}/id-12.jpeg": jpeg(12),
    }
    assert report.production == [drawn]
    batch = report.added[0]
    assert (batch.source, batch.name, batch.added) == ("review", source.name, datetime.now(UTC).date())
    assert batch.files == {trained: {"cat": 1, "dog": 1}, drawn: {"dog": 1}}
    assert batch.review is not None
    assert (batch.review.first, batch.review.last) == (date(2026, 11, 11), date(2026, 11, 13))
    assert (batch.review.models, batch.review.people) == (["v0", "v1"], 2)
    assert batch.review.apart == {"neither": 1}
    assert "ann" not in PLACE.fetch_report.read_text()
    assert since(PLACE.fetch_report) == date(2026, 11, 13)
    said = capsys.readouterr().out
    assert "for training: cat 1, dog 1" in said
    assert "for the production test set, which begins on 2026-11-13: dog 1" in said
    assert "kept apart: 1 neither" in said


@pytest.mark.usefixtures("fetched")
def test_a_later_review_adds_only_what_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Reviews have the earlier photos too; the same again changes nothing, not even the date."""
    first = add(export(tmp_path / "one", train__cat=10, production__dog=12))
    PLACE.fetch_report.write_text(
        PLACE.fetch_report.read_text().replace(str(first.added[0].added), "2020-01-01")
    )
    unchanged = state()
    add(tmp_path / "one")
    assert state() == unchanged
    assert "added already" in capsys.readouterr().out
    export(tmp_path / "two", train__cat=10, production__dog=12, train__dog=14, production__cat=6)
    second = add(tmp_path / "two")
    assert len(raw()) == 5 + 4
    assert second.production == [*first.production, *list(second.added[1].files)[1:]]
    assert "already there: 2" in capsys.readouterr().out
    assert since(PLACE.fetch_report) == date(2026, 11, 7), "the earliest of both"


@pytest.mark.usefixtures("fetched")
def test_a_photo_of_production_is_not_added_to_train_on(tmp_path: Path):
    """Whatever a later review says of it."""
    add(export(tmp_path / "one", production__dog=12))
    before = raw()
    add(export(tmp_path / "two", train__dog=12))
    add(export(tmp_path / "three", train__cat=12))
    assert raw() == before


@pytest.mark.usefixtures("fetched")
def test_what_people_now_say_replaces_what_they_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Else both labels would be there, and `prepare` would drop the photo as a conflicting duplicate."""
    add(export(tmp_path / "one", train__cat=10, train__dog=11, production__dog=12, production__cat=13))
    fetched = [name for name in raw() if name.count("/") == 1]
    capsys.readouterr()
    add(export(tmp_path / "two", train__dog=10, apart__neither=11, production__cat=12, apart__disagreed=13))
    added = {path.rsplit("/", 1)[-1]: path.split("/")[0] for path in raw() if path not in fetched}
    assert added == {"id-10.jpeg": "dog", "id-12.jpeg": "cat"}
    assert "removed, since people now answer otherwise: 4" in capsys.readouterr().out
    unchanged = state()
    add(tmp_path / "two")
    assert state() == unchanged
    add(export(tmp_path / "three", apart__neither=10))
    assert "id-10.jpeg" not in "".join(raw())
    add(export(tmp_path / "four", train__cat=10))
    assert [path.split("/")[0] for path in raw() if path.endswith("id-10.jpeg")] == ["cat"]


@pytest.mark.usefixtures("fetched")
def test_what_was_withdrawn_leaves_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Else the test set of production would begin on a day of which it has no photo."""
    add(export(tmp_path / "one", production__dog=3))
    report = add(export(tmp_path / "two", apart__neither=3, production__dog=20))
    assert [batch.name for batch in report.added] == ["two"]
    assert report.production == list(report.added[0].files)
    assert read(PLACE.fetch_report) == report
    assert "test set, which begins on 2026-11-21: dog 1" in capsys.readouterr().out
    report = add(export(tmp_path / "three", apart__neither=20))
    assert (report.added, report.production, since(PLACE.fetch_report)) == ([], [], None)


@pytest.mark.usefixtures("fetched")
def test_a_review_corrects_only_what_a_service_collected(tmp_path: Path):
    """Other photos have labels of other people; the two then conflict, and neither is trained on."""
    before = raw()
    report = add(export(tmp_path / "one", train__dog=0))
    assert raw() == before | {f"dog/{next(iter(report.added[0].files))}/id-0.jpeg": jpeg(0)}


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("reviewed_first", [False, True])
def test_a_caller_does_not_correct_a_reviewer(reviewed_first: bool, tmp_path: Path):
    """Feedback is corrected by a review, never the other way round: a caller may lie."""
    told, reviewed = feedback_of_a_cat(tmp_path), export(tmp_path / "one", train__dog=10)
    for source in (reviewed, told) if reviewed_first else (told, reviewed):
        add(source)
    labels = sorted(path.split("/")[0] for path in raw() if "id-10" in path)
    assert labels == (["cat", "dog"] if reviewed_first else ["dog"])


@pytest.mark.usefixtures("fetched")
def test_feedback_comes_back_after_a_review_withdrew_it(tmp_path: Path):
    """Into folders of the same name, which the review has left empty; the review, once more, withdraws it."""
    told, reviewed = feedback_of_a_cat(tmp_path), export(tmp_path / "one", apart__neither=10)
    before, first = raw(), add(told)
    withdrawn = add(reviewed)
    assert (raw(), withdrawn.added, read(PLACE.fetch_report)) == (before, [], withdrawn)
    assert add(told).added == first.added
    assert len(raw()) == len(before) + 1
    add(reviewed)
    assert raw() == before


@pytest.mark.usefixtures("fetched")
def test_a_kill_between_the_record_and_the_photos_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No production folder is ever without a record, and the next addition, of more, leaves one of each."""
    export(tmp_path / "one", train__cat=10, production__dog=12)
    export(tmp_path / "two", train__cat=10, production__dog=12, production__cat=6)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    rename, before = Path.rename, raw()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda path, to: killed() if path == PLACE.raw else rename(path, to))
        with pytest.raises(KeyboardInterrupt):
            add(tmp_path / "one")
    assert raw() == before
    assert json.loads(PLACE.fetch_report.read_text())["production"]
    PLACE.raw.rename("data/raw.old")  # where a kill between the two renames would leave it
    report = add(tmp_path / "two")
    (batch,) = report.added
    assert {path.split("/")[1] for path in raw().keys() - before.keys()} == set(batch.files)
    assert report.production == [name for name in batch.files if name.startswith("production-")]


@pytest.mark.usefixtures("fetched")
def test_what_cannot_be_added_changes_nothing(tmp_path: Path):
    """A class that the data does not have, other databases, an export alone."""
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("create table pets (name text)")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(other.read_bytes()[:100] + bytes(5000))
    before = state()
    for source, words in (
        (export(tmp_path / "birds", train__cat=10, production__bird=11), "'bird' is not one of the classes"),
        (other, "a database of something else, with the tables pets"),
        (damaged, "cannot be read"),
    ):
        with pytest.raises(PipelineError, match=words):
            add(source)
        assert state() == before, source


@pytest.mark.usefixtures("fetched")
def test_an_export_that_was_damaged_by_hand_changes_nothing(tmp_path: Path):
    """A table that was cut off, or two folders of which one would overwrite the other's photos."""
    cut, twice = export(tmp_path / "cut", train__cat=10, train__dog=11), export(tmp_path / "twice")
    table = cut / "labels.csv"
    table.write_text(table.read_text().removesuffix(",train/dog/id-11.jpeg\n"))
    for label, seed in (("cat", 10), ("Cat", 11)):
        (twice / "train" / label).mkdir(parents=True)
        (twice / "train" / label / "id.jpeg").write_bytes(jpeg(seed))
    before = state()
    for source, words in ((cut, "ends early in the row of id-11"), (twice, "differ only in case: Cat, cat")):
        with pytest.raises(PipelineError, match=words):
            add(source)
        assert state() == before


@pytest.mark.usefixtures("fetched")
def test_a_review_is_no_source_of_all_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its folders are no classes."""
    before = state()
    monkeypatch.setenv("DATA", str(export(tmp_path / "one", train__cat=10, production__dog=12)))
    assert main(["fetch"]) == 2
    assert "make data ADD=" in capsys.readouterr().err
    assert state() == before


@pytest.mark.usefixtures("fetched")
def test_a_review_without_a_label_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A loop at night then trains on the data that it has."""
    before = state()
    add(export(tmp_path / "empty"))
    assert "nobody has labelled a photo in this review yet" in capsys.readouterr().out
    assert state() == before


@pytest.mark.usefixtures("fetched")
def test_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before anything is written."""
    export(tmp_path / "one", train__cat=10)
    before, usage = state(), shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(PipelineError, match="Free some disk space"):
        add(tmp_path / "one")
    assert state() == before


@pytest.mark.slow
@pytest.mark.usefixtures("fetched")
def test_the_databases_of_a_service_are_exported_while_it_uses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Under any name; what the export refuses is reported in its words."""
    queue = opened(tmp_path, share=1.0)
    queue.observe(seen("drawn", 20))
    queue._flush()
    with queue.transaction() as transaction:
        verdicts.give(transaction, "drawn", "ann", "label", "dog", at=1.0)
    shutil.copy(tmp_path / "r.db", tmp_path / "copy")
    report = add(tmp_path / "r.db")
    (batch,) = report.added
    assert (batch.source, batch.name, list(batch.files.values())) == ("review", "r.db", [{"dog": 1}])
    queue.observe(seen("later", 21))
    queue._flush()
    queue.close()
    with sqlite3.connect(tmp_path / "f.db") as database:
        database.execute("create table answers (label text)")
    with pytest.raises(PipelineError, match=r"f\.db is not a feedback database"):
        add(tmp_path / "f.db")
    feedback.connect(tmp_path / "unlabelled.db").close()
    with pytest.raises(PipelineError, match="SERVING_FEEDBACK_PHOTOS=true"):
        add(tmp_path / "unlabelled.db")
    assert not list(Path("data").glob("raw.*"))


class Service(http.server.BaseHTTPRequestHandler):
    """Answers `GET /review/export` with a zip, if the key is right."""

    content = b""
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        key = self.headers.get("X-API-Key")
        self.asked.append((self.path, key))
        if self.path == "/moved/review/export":
            self.send_response(307)
            self.send_header("Location", "/review/export")
            self.end_headers()
            return
        if self.path == "/off/review/export":
            body, status = b'{"detail": "SERVING_REVIEW is not set."}', 404
        else:
            body, status = (self.content, 200) if key == "secret" else (b"{}", 401)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut/review/export" else body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, type[Service]]]:
    """A service with a review of one photo."""
    export(tmp_path / "one", production__dog=12)
    content = Path(shutil.make_archive(str(tmp_path / "one"), "zip", tmp_path / "one")).read_bytes()
    kind = type("Kind", (Service,), {"content": content, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", kind
        listening.shutdown()


@pytest.mark.usefixtures("fetched")
def test_a_running_service_is_asked_with_the_key(
    service: tuple[str, type[Service]], monkeypatch: pytest.MonkeyPatch
):
    """Each time: what it has today is not what it had yesterday."""
    address, kind = service
    monkeypatch.setenv("SERVING_API_KEY", "secret,older")
    report = add(f"{address}/review/export")
    (batch,) = report.added
    assert (batch.source, batch.name) == ("review", address.removeprefix("http://"))
    assert list(batch.files.values()) == [{"dog": 1}]
    assert add(f"{address}/review/export") == report
    assert kind.asked == [("/review/export", "secret")] * 2
    assert not PLACE.downloads.exists()


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize(
    ("path", "key", "words"),
    [
        ("/review/export", "wrong", "Set SERVING_API_KEY"),
        ("/review/export", "", "Set SERVING_API_KEY"),
        ("/off/review/export", "secret", "answers 404. SERVING_REVIEW is not set"),
        ("/moved/review/export", "secret", "refers to /review/export"),
        ("/cut/review/export", "secret", "No complete answer came from"),
    ],
)
def test_a_service_that_refuses_changes_nothing(
    service: tuple[str, type[Service]], path: str, key: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    """The key goes nowhere but to the address that was named."""
    address, kind = service
    monkeypatch.setenv("SERVING_API_KEY", key)
    before = state()
    with pytest.raises(PipelineError, match=words):
        add(address + path)
    assert state() == before
    assert kind.asked == [(path, key or None)]


@pytest.mark.usefixtures("fetched")
def test_other_addresses_get_no_key(service: tuple[str, type[Service]], monkeypatch: pytest.MonkeyPatch):
    """An archive somewhere else is an archive."""
    address, kind = service
    monkeypatch.setenv("SERVING_API_KEY", "secret")
    with pytest.raises(PipelineError, match="401"):
        add(f"{address}/photos.zip")
    assert kind.asked == [("/photos.zip", None)]


@pytest.mark.usefixtures("fetched")
def test_no_service_is_reported():
    """With what to check."""
    with pytest.raises(PipelineError, match="Check that the service runs there"):
        add("http://127.0.0.1:9/review/export")
