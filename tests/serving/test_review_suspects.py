"""Photos whose label is in doubt come to people, the worst first; their label is shown after the answer."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.__main__ import main
from serving.contract.suspects import Reviewed, Said, Suspect, Suspects
from serving.observers.review import schema, suspects, verdicts
from serving.settings import Settings
from tests.conftest import Client, running
from tests.serving.reviewing import jpeg, opened, seen

KEY = {"X-API-Key": "secret"}
CLASSES = ["bird", "cat", "dog"]


def suspect(folder: Path, number: int, filed: str = "dog") -> Suspect:
    """A photo on disk that looks like a cat."""
    path = folder / f"{number}.jpg"
    path.write_bytes(jpeg(number))
    return Suspect(hashlib.sha256(jpeg(number)).hexdigest(), str(path), filed, "cat", 0.9)


def fill(folder: Path, *photos: Suspect) -> list[str]:
    """Let them wait; return what was left out."""
    with contextlib.closing(schema.connect(folder / "r.db")) as database:
        return suspects.fill(database, Suspects(CLASSES, list(photos)))


def found(folder: Path) -> Reviewed:
    """How far the review is."""
    with contextlib.closing(schema.connect(folder / "r.db")) as database:
        return suspects.reviewed(database)


def say(folder: Path, photo: Suspect, reviewer: str, verdict: str, label: str | None = None) -> None:
    """A person's verdict."""
    with contextlib.closing(schema.connect(folder / "r.db")) as database, database:
        verdicts.give(database, photo.sha256, reviewer, verdict, label, at=1.0)


def order(folder: Path, reviewer: str) -> list[str]:
    """The photos in the order in which a person is shown them."""
    names = []
    with contextlib.closing(schema.connect(folder / "r.db")) as database:
        while (name := verdicts.next_photo(database, reviewer)) is not None:
            names.append(name)
            verdicts.give(database, name, reviewer, "cannot-tell", None, at=1.0)
        database.rollback()
    return names


@pytest.fixture
def reviewing(model: Path, tmp_path: Path) -> Iterator[Client]:
    """A service of cats and dogs with one suspect."""
    fill(tmp_path, suspect(tmp_path, 0))
    settings = Settings(model=str(model), workers=1, api_key="secret", review=str(tmp_path / "r.db"))
    with running(settings) as client:
        yield client


def test_the_worst_comes_first_whatever_else_waits(tmp_path: Path):
    """In the order of the list, before photos of the service."""
    queue = opened(tmp_path)
    for number in range(10):
        queue.observe(seen(f"n{number}", 100 + number))
    queue.close()
    photos = [suspect(tmp_path, number) for number in (3, 1, 2)]
    assert fill(tmp_path, *photos) == []
    assert order(tmp_path, "ada")[:3] == [photo.sha256 for photo in photos]


def test_a_second_list_replaces_what_waits_and_keeps_what_was_said(tmp_path: Path):
    """The verdict survives, its photo is not shown again, and the order is that of the new list."""
    one, two, three = (suspect(tmp_path, number) for number in range(3))
    fill(tmp_path, one, two)
    say(tmp_path, one, "ada", "label", "cat")
    fill(tmp_path, three, one)
    assert order(tmp_path, "ada") == [three.sha256]
    assert found(tmp_path).said == [Said(one.sha256, one.path, "dog", [("label", "cat")])]


def test_a_second_person_is_waited_for(tmp_path: Path):
    """A fifth of the photos is shown twice, here all of them; then both verdicts are there."""
    photo = suspect(tmp_path, 0)
    fill(tmp_path, photo)
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database, database:
        database.execute("update photos set rank = 5")
    say(tmp_path, photo, "ada", "label", "cat")
    assert found(tmp_path).waiting == 1
    say(tmp_path, photo, "bob", "neither")
    assert found(tmp_path) == Reviewed(
        0, [Said(photo.sha256, photo.path, "dog", [("label", "cat"), ("neither", None)])]
    )


def test_a_photo_that_is_gone_or_changed_is_named_and_left_out(tmp_path: Path):
    """The others wait all the same."""
    gone, changed, there = (suspect(tmp_path, number) for number in range(3))
    Path(gone.path).unlink()
    Path(changed.path).write_bytes(jpeg(9))
    assert fill(tmp_path, gone, changed, there) == [
        f"{gone.path}: No such file or directory",
        f"{changed.path}: not the photo that was audited",
    ]
    assert order(tmp_path, "ada") == [there.sha256]


def test_what_it_is_filed_under_is_shown_after_the_answer(reviewing: Client, tmp_path: Path):
    """With what the audit suggests; the classes are those of the photos, whatever the model has."""
    reply = reviewing.get("/review/next", params={"reviewer": "ada"}, headers=KEY)
    shown = reply.json()
    name = hashlib.sha256(jpeg(0)).hexdigest()
    assert (shown["request_id"], shown["labels"]) == (name, CLASSES)
    assert "filed" not in reply.text
    photo = reviewing.get(f"/review/photos/{name}", headers=KEY)
    assert (photo.content, photo.headers["content-type"]) == (jpeg(0), "image/jpeg")
    verdict = {"request_id": name, "reviewer": "ada", "verdict": "label"}
    refused = reviewing.post("/review/verdicts", json=verdict | {"label": "fish"}, headers=KEY)
    assert (refused.status_code, "one of bird, cat, dog" in refused.text) == (422, True)
    assert found(tmp_path).said == []
    reply = reviewing.post("/review/verdicts", json=verdict | {"label": "bird"}, headers=KEY)
    assert reply.json() == {
        "prediction": "cat",
        "probability": 0.9,
        "model_version": "audit",
        "reasons": ["suspect"],
        "filed": "dog",
    }


def test_suspects_are_no_part_of_the_estimate_of_production(reviewing: Client):
    """Nobody asked the service about them."""
    name = hashlib.sha256(jpeg(0)).hexdigest()
    verdict = {"request_id": name, "reviewer": "ada", "verdict": "label", "label": "cat"}
    reviewing.post("/review/verdicts", json=verdict, headers=KEY)
    reviewing.app.state.service.review.observe(seen("asked", 5))
    reviewing.app.state.service.review._flush()
    (stratum,) = reviewing.get("/review/progress", headers=KEY).json()["strata"]
    assert (stratum["answered"], stratum["reviewed"]) == (1, 0)


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put this on the standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_the_command_takes_and_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """What is left out goes to the error output; something else on the input changes nothing."""
    photos = [suspect(tmp_path, 0), suspect(tmp_path, 1)]
    Path(photos[1].path).unlink()
    give(monkeypatch, msgspec.json.encode(Suspects(CLASSES, photos)))
    assert main(["suspects", str(tmp_path / "r.db"), "--fill"]) == 0
    said = capsys.readouterr()
    assert f"left out: {photos[1].path}" in said.err
    assert msgspec.json.decode(said.out, type=Reviewed) == Reviewed(1, [])
    give(monkeypatch, b'{"photos": []}')
    assert main(["suspects", str(tmp_path / "r.db"), "--fill"]) == 2
    assert "no list of suspects" in capsys.readouterr().err
    assert found(tmp_path).waiting == 1
    (tmp_path / "text.db").write_text("no database, whatever its name says" * 100)
    assert main(["suspects", str(tmp_path / "text.db")]) == 2
    assert "text.db cannot be used" in capsys.readouterr().err


def test_suspects_are_not_exported_as_new_photos(tmp_path: Path):
    """They are in the data already, under the label that is in doubt."""
    photo = suspect(tmp_path, 1)
    fill(tmp_path, photo)
    say(tmp_path, photo, "ann", "label", "cat")
    assert main(["export-review", str(tmp_path / "r.db"), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["labels.csv"]
