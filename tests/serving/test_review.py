"""People label photos over HTTP: with a key, without seeing the prediction, only from the service's page."""

from __future__ import annotations

import contextlib
import errno
import io
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.observers.review.export import export
from serving.observers.review.queue import ReviewQueue
from serving.observers.review.verdicts import kappa
from serving.settings import Settings
from tests.conftest import Client, running
from tests.pictures import encode, scene
from tests.serving.reviewing import jpeg, seen

KEY = {"X-API-Key": "secret"}
READS = ["/review/next?reviewer=ada", "/review/progress", "/review/photos/a", "/review/export"]


@pytest.fixture
def reviewing(model: Path, tmp_path: Path) -> Iterator[Client]:
    """A service that keeps every photo for review, feedback with photos, and pages of another origin."""
    settings = Settings(
        model=str(model),
        workers=1,
        api_key="secret",
        review=str(tmp_path / "r.db"),
        review_share=1.0,
        feedback=str(tmp_path / "f.db"),
        feedback_photos=True,
        cors_origins="https://app.example.org",
    )
    with running(settings) as client:
        yield client


def queue_of(client: Client) -> ReviewQueue:
    """The service's queue."""
    return client.app.state.service.review


def put(client: Client, *names: str) -> None:
    """Keep photos, all of them predicted as cats."""
    for seed, name in enumerate(names):
        queue_of(client).observe(seen(name, seed))
    queue_of(client)._flush()


def following(client: Client, reviewer: str) -> dict[str, object]:
    """What a person sees next."""
    reply = client.get("/review/next", params={"reviewer": reviewer}, headers=KEY)
    assert reply.status_code == 200, reply.text
    return reply.json()


def say(client: Client, request_id: object, reviewer: str, verdict: str, **more: object) -> httpx.Response:
    """Give a verdict; a class's name is a label."""
    body = {"request_id": request_id, "reviewer": reviewer, "verdict": verdict}
    if verdict in ("cat", "dog"):
        body |= {"verdict": "label", "label": verdict}
    return client.post("/review/verdicts", json=body | more.pop("body", {}), headers=KEY | more)


def problem(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem."""
    return reply.status_code, reply.json()["type"].removeprefix("/problems/")


def test_a_person_labels_the_photos_one_after_the_other(reviewing: Client):
    """Each comes once, with its bytes; the prediction is shown after the verdict, and progress counts."""
    put(reviewing, "a", "b", "c")
    said = []
    for given, verdict in enumerate(("cat", "neither", "cannot-tell")):
        shown = following(reviewing, "ada")
        assert (shown["given"], shown["left"], shown["labels"]) == (given, 3 - given, ["cat", "dog"])
        assert "prediction" not in str(shown)
        name = str(shown["request_id"])
        reply = reviewing.get(f"/review/photos/{name}", headers=KEY)
        assert reply.content == jpeg("abc".index(name))
        assert reply.headers["content-type"] == "image/jpeg"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in reply.headers["content-security-policy"]
        assert "cat" not in str(reply.headers)
        revealed = say(reviewing, name, "ada", verdict).json()
        assert revealed == {
            "prediction": "cat",
            "probability": 0.7,
            "model_version": "1",
            "reasons": ["uncertain", "sample"],
            "filed": None,
        }
        said.append(name)
    assert sorted(said) == ["a", "b", "c"]
    assert following(reviewing, "ada")["request_id"] is None
    (stratum,) = reviewing.get("/review/progress", headers=KEY).json()["strata"]
    assert [stratum[name] for name in ("answered", "reviewed", "right", "neither", "cannot_tell")] == [
        3,
        3,
        1,
        1,
        1,
    ]
    assert reviewing.app.state.service.metrics.registry.get_sample_value("classifier_review_photos") == 0


def test_who_when_and_the_models_version_are_stored(reviewing: Client, tmp_path: Path):
    """A second verdict of the same person replaces the first."""
    put(reviewing, "a")
    say(reviewing, "a", "ada", "dog")
    say(reviewing, "a", "ada", "cat")
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database:
        ((name, who, at, verdict, label, version),) = database.execute("select * from verdicts").fetchall()
    assert (name, who, verdict, label, version) == ("a", "ada", "label", "cat", "1")
    assert at > 1e9


def test_a_second_person_sees_a_fifth_of_the_photos_again(reviewing: Client, tmp_path: Path):
    """Those whose rank says so, and nobody a third time; both verdicts are kept and compared."""
    put(reviewing, *(f"n{number}" for number in range(30)))
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database:
        ranks = dict(database.execute("select request_id, rank from photos").fetchall())
    twice = {name for name, rank in ranks.items() if rank % 5 == 0}
    while (name := following(reviewing, "ada")["request_id"]) is not None:
        say(reviewing, name, "ada", "cat")
    seen_again = set()
    while (name := following(reviewing, "bob")["request_id"]) is not None:
        seen_again.add(name)
        say(reviewing, name, "bob", "cat" if len(seen_again) > 1 else "dog")
    assert seen_again == twice
    assert following(reviewing, "eve")["request_id"] is None
    found = reviewing.get("/review/progress", headers=KEY).json()
    assert (found["seen_by_two"], found["agreed"]) == (len(twice), max(0, len(twice) - 1))


def test_two_people_at_one_photo_are_both_heard(reviewing: Client):
    """Neither overwrites the other."""
    put(reviewing, "a")
    assert following(reviewing, "ada")["request_id"] == following(reviewing, "bob")["request_id"] == "a"
    assert say(reviewing, "a", "ada", "cat").status_code == 200
    assert say(reviewing, "a", "bob", "dog").status_code == 200
    shown = following(reviewing, "eve")
    assert (shown["request_id"], shown["seen_by_two"]) == (None, 1)


def test_a_person_takes_back_their_own_last_verdict(reviewing: Client):
    """And the one before it; what others said stays."""
    put(reviewing, "a", "b")
    for name in ("a", "b"):
        say(reviewing, name, "ada", "cat")
    say(reviewing, "a", "bob", "dog")
    for name in ("b", "a"):
        reply = reviewing.post("/review/undo", json={"reviewer": "ada"}, headers=KEY)
        assert reply.json() == {"request_id": name}
    reply = reviewing.post("/review/undo", json={"reviewer": "ada"}, headers=KEY)
    assert problem(reply) == (409, "nothing-to-undo")
    assert following(reviewing, "bob")["given"] == 1


def test_a_verdict_on_a_photo_that_is_gone_is_refused(reviewing: Client):
    """The problem says so: it was deleted while the person looked at it."""
    put(reviewing, "a")
    assert reviewing.delete("/review/photos/a", headers=KEY).status_code == 204
    reply = say(reviewing, "a", "ada", "cat")
    assert problem(reply) == (404, "unknown-photo")
    assert "it was deleted" in reply.json()["detail"]
    assert problem(reviewing.get("/review/photos/a", headers=KEY)) == (404, "unknown-photo")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"verdict": "label", "label": "fish"}, 422, "unknown-label"),
        ({"verdict": "label"}, 400, "malformed-review"),
        ({"verdict": "neither", "label": "cat"}, 400, "malformed-review"),
        ({"verdict": "perhaps"}, 400, "malformed-review"),
        ({"reviewer": ""}, 400, "malformed-review"),
        ({"reviewer": "a" * 65}, 400, "malformed-review"),
        ({"reviewer": "a\nb"}, 400, "malformed-review"),
        ({"prediction": "cat"}, 400, "malformed-review"),
        ({"request_id": "' or 1=1 --"}, 404, "unknown-photo"),
    ],
)
def test_what_is_no_verdict_is_refused(reviewing: Client, body: dict[str, object], status: int, code: str):
    """And nothing is stored."""
    put(reviewing, "a")
    assert problem(say(reviewing, "a", "ada", "neither", body=body)) == (status, code)
    assert following(reviewing, "ada")["left"] == 1


def test_a_class_that_the_model_does_not_have_is_neither(reviewing: Client):
    """The problem says how a new class is made."""
    put(reviewing, "a")
    detail = say(reviewing, "a", "ada", "label", body={"label": "fish"}).json()["detail"]
    assert "one of cat, dog" in detail
    assert "docs/loop.md" in detail


def test_the_labelled_photos_leave_as_a_zip(reviewing: Client, tmp_path: Path):
    """With their number of bytes, the same as the command writes; nothing is left next to the database."""
    put(reviewing, "a", "b", "c", "waiting")
    for name, verdict in (("a", "dog"), ("b", "cat"), ("c", "neither")):
        assert say(reviewing, name, "ada", verdict).status_code == 200
    before = sorted(path.name for path in tmp_path.iterdir())
    reply = reviewing.get("/review/export", headers=KEY)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/zip")
    assert int(reply.headers["Content-Length"]) == len(reply.content)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    export(tmp_path / "r.db", tmp_path / "out")
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == written
    assert written.keys() == {
        *("labels.csv", "apart/neither/c.jpeg"),
        *("production/dog/a.jpeg", "production/cat/b.jpeg"),
    }


def test_a_disk_without_room_for_the_zip_is_a_503(reviewing: Client, monkeypatch: pytest.MonkeyPatch):
    """The review goes on."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("serving.http.review.routes.pack", full)
    assert problem(reviewing.get("/review/export", headers=KEY)) == (503, "review-unavailable")
    assert reviewing.get("/review/progress", headers=KEY).status_code == 200


def test_everything_needs_the_key(reviewing: Client):
    """Photos of strangers are behind it, and whoever deletes has it too."""
    put(reviewing, "a")
    for path in READS:
        assert problem(reviewing.get(path)) == (401, "unauthorized")
    for path in ("/review/verdicts", "/review/undo"):
        assert problem(reviewing.post(path, json={})) == (401, "unauthorized")
    assert problem(reviewing.delete("/review/photos/a")) == (401, "unauthorized")


def test_the_page_asks_for_the_key_itself(reviewing: Client):
    """Anyone may load it, as the other pages; it holds nothing, and loads nothing from elsewhere."""
    reply = reviewing.get("/review")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'; script-src 'self'" in reply.headers["content-security-policy"]
    for name in ("review.js", "review.css", "key.js", "element.js"):
        assert reviewing.get(f"/web/{name}").status_code == 200


def test_review_must_be_switched_on(client: Client):
    """404 with the setting's name."""
    for path in (*READS, "/review"):
        reply = client.get(path)
        assert problem(reply) == (404, "review-off")
    assert "SERVING_REVIEW is not set" in reply.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://app.example.org"},
        {"Origin": "null"},
        {"Origin": "http://testserver.local.example.org"},
    ],
)
def test_a_page_of_another_origin_may_do_nothing(reviewing: Client, headers: dict[str, str]):
    """With the key or not, and though the operator lets its origin use /predict."""
    put(reviewing, "a")
    assert problem(say(reviewing, "a", "ada", "cat", **headers)) == (403, "cross-origin")
    assert problem(reviewing.delete("/review/photos/a", headers=KEY | headers)) == (403, "cross-origin")
    for path in READS:
        assert problem(reviewing.get(path, headers=KEY | headers)) == (403, "cross-origin")


def test_the_page_of_the_service_may(reviewing: Client):
    """A browser says so, in one header or the other."""
    put(reviewing, "a")
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://testserver.local"}):
        assert say(reviewing, "a", "ada", "cat", **headers).status_code == 200


@pytest.mark.parametrize("path", [*READS, "/review", "/review/next/?reviewer=ada"])
def test_no_answer_of_the_review_is_for_other_origins(reviewing: Client, path: str):
    """Neither the answer nor the preflight request has the headers of CORS; those of /predict have them."""
    headers = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
    for reply in (reviewing.options(path, headers=headers), reviewing.get(path, headers=KEY | headers)):
        assert "access-control-allow-origin" not in reply.headers
        assert "access-control-allow-methods" not in reply.headers
    assert reviewing.options("/predict", headers=headers).headers["access-control-allow-methods"]


def test_a_label_that_contradicts_an_answer_brings_its_photo(model: Path, tmp_path: Path):
    """From the feedback; one that agrees does not."""
    settings = Settings(
        model=str(model),
        workers=1,
        api_key="secret",
        review=str(tmp_path / "r.db"),
        review_share=0.0,
        feedback=str(tmp_path / "f.db"),
        feedback_photos=True,
    )
    photos = {"right": encode(scene(100)), "wrong": encode(scene(100).rotate(90))}
    with running(settings) as client:
        for name, content in photos.items():
            reply = client.post("/predict", content=content, headers=KEY | {"X-Request-ID": name}).json()
            label = reply["prediction"]
            if name == "wrong":
                (label,) = {"cat", "dog"} - {label}
            client.post("/feedback", json={"request_id": name, "label": label}, headers=KEY)
        queue_of(client)._flush()
        with queue_of(client).transaction() as transaction:
            found = transaction.execute("select request_id, reasons from photos").fetchall()
        assert ("told-wrong" in dict(found)["wrong"], "told-wrong" in dict(found).get("right", "")) == (
            True,
            False,
        )


def test_a_deletion_takes_the_feedback_too(reviewing: Client, tmp_path: Path):
    """All photos of the request, from both files, and a second deletion changes nothing."""
    photo = encode(scene(100)) + b"-a-private-photo-" * 2000
    for name in ("mine", "other"):
        reply = reviewing.post("/predict", content=photo, headers=KEY | {"X-Request-ID": name})
        assert reply.status_code == 200
    for _ in range(2):
        assert reviewing.delete("/review/photos/mine", headers=KEY).status_code == 204
    assert reviewing.app.state.service.feedback.find("mine") is None
    assert reviewing.app.state.service.feedback.find("other") is not None
    reviewing.delete("/review/photos/other", headers=KEY)
    held = b"".join(path.read_bytes() for path in tmp_path.glob("*.db*"))
    assert b"-a-private-photo-" not in held


def test_kappa_is_cohens():
    """His own example (Cohen 1960) has three diagnoses by two people: 0.492."""
    table = {
        (0, 0): 88,
        (0, 1): 10,
        (0, 2): 2,
        (1, 0): 14,
        (1, 1): 40,
        (1, 2): 6,
        (2, 0): 18,
        (2, 1): 10,
        (2, 2): 12,
    }
    pairs = [(str(one), str(other)) for (one, other), count in table.items() for _ in range(count)]
    assert kappa(pairs) == pytest.approx(0.492, abs=0.0005)
    assert kappa([("cat", "dog"), ("dog", "cat")]) == -1
    assert kappa([("cat", "cat")]) is None
    assert kappa([]) is None
