"""The HTML pages as the service sends them; `tests/browser` uses them in a browser."""

from __future__ import annotations

import html
import json
import re
from datetime import date
from pathlib import Path
from urllib.parse import urljoin

import msgspec
import pytest

from serving.contract.card import Card, InProduction, Measured
from serving.http import wording
from serving.http.examples import FOLDER, examples_for, read
from serving.http.predict import EXAMPLE
from serving.http.rendering import root_of
from serving.runtime.handler import load_handler
from serving.settings import Settings
from tests import redness, tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene

JPEG = encode(scene())
PAGES = ["/", "/model", "/status", "/problems/empty", "/schema"]


def text_of(page: str) -> str:
    """What a person reads of a page, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(scope="module")
def released() -> Card:
    """The card of the released model."""
    return msgspec.json.decode((tiny.ROOT / "models/release/card.json").read_bytes(), type=Card)


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_its_parts_from_the_service_by_relative_addresses(client: Client, path: str, slash: str):
    """It works below a path behind a proxy, with or without a slash at its end, under a strict policy."""
    at = path if path == "/" else path + slash
    page = client.get(at)
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"] + page.text
    parts = re.findall(r'(?:src|href|action)="([^"]+)"', page.text)
    assert len(parts) > 2
    for part in parts:
        if part == "data:,":
            continue
        assert re.match(r"\.\.?/", part), part
        inside = urljoin(f"http://host/pets{at}", part)
        assert inside.startswith("http://host/pets/"), part
        assert client.get(inside.removeprefix("http://host/pets")).status_code == 200, part


def test_scripts_and_styles_load_nothing_by_an_absolute_address():
    """Neither from another host nor from the root of this one."""
    for path in (tiny.ROOT / "serving/http/web").glob("*.[jc]s*"):
        text = path.read_text().replace('"http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://", text), path
        assert not re.search(r"""["'(]/\w""", text), path
        for part in re.findall(r'from "\./([^"]+)"', text):
            assert path.with_name(part).exists(), part


@pytest.mark.parametrize(
    ("path", "root"), [(b"/", "./"), (b"/status", "./"), (b"/status/", "../"), (b"/problems/x", "../")]
)
def test_the_root_is_seen_from_the_page(path: bytes, root: str):
    """A relative address depends on where it is read."""
    assert root_of(path) == root


def test_the_description_of_the_api_is_relative_too(client: Client):
    """A client that reads it below a path calls the routes below that path."""
    (server,) = client.get("/schema/openapi.json").json()["servers"]
    assert urljoin("http://host/pets/schema/openapi.json", server["url"]) == "http://host/pets/"


def test_a_form_without_javascript_is_answered_with_a_page(client: Client):
    """The answer as markup, with the form again; a problem keeps its status; both count as requests."""
    before = client.get("/metrics", headers={"Accept": "application/json"}).json()["outcomes"]
    page = client.post("/", files={"file": ("a.jpg", JPEG)})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert re.search(r'<article class="card[^"]*">\s*<h2>', page.text)
    assert page.text.count("<meter") == 2
    assert "<form" in page.text
    refused = client.post("/", files={"file": ("a.txt", b"<script>")})
    assert (refused.status_code, "Not an accepted image format" in refused.text) == (415, True)
    assert './problems/unsupported-image"' in refused.text
    after = client.get("/metrics", headers={"Accept": "application/json"}).json()["outcomes"]
    assert after["ok"] == before["ok"] + 1
    assert after["unsupported-image"] == before["unsupported-image"] + 1


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "> 99.99 %"),
        (0.99991, "> 99.99 %"),
        (0.9999, "99.99 %"),
        (0.5, "50.00 %"),
        (0.0001, "0.01 %"),
        (0.00009, "< 0.01 %"),
        (0.0, "< 0.01 %"),
    ],
)
def test_no_probability_is_shown_as_certain(probability: float, shown: str):
    """A page never says 100.00 % or 0.00 %: no model is that sure."""
    assert wording.percent(probability) == shown.replace(" %", "\N{NO-BREAK SPACE}%")


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "Of 10,000 answers as probable as this one, fewer than one should be wrong."),
        (0.9995, "Of 2,000 answers as probable as this one, about one should be wrong."),
        (0.97, "Of 33 answers as probable as this one, about one should be wrong."),
        (0.81, "Of 5 answers as probable as this one, about one should be wrong."),
        (0.7, "Of ten answers as probable as this one, about 3 should be wrong."),
        (0.02, "Of ten answers as probable as this one, about 10 should be wrong."),
    ],
)
def test_a_probability_is_explained_by_counting(probability: float, shown: str):
    """What a calibrated probability promises, in numbers that a person can picture."""
    assert wording.odds(probability) == shown


@pytest.mark.parametrize(
    ("uncertain", "unfamiliar", "words"),
    [(False, False, "Of 2,000 answers"), (True, None, "below 95.16 %"), (False, True, "means little here")],
)
def test_an_answer_says_what_it_means(released: Card, uncertain: bool, unfamiliar: bool | None, words: str):
    """Sure, not sure, or unlike anything the model knows."""
    prediction = msgspec.structs.replace(EXAMPLE, uncertain=uncertain, unfamiliar=unfamiliar)
    answer = wording.answered(prediction, {"queue": 0.0001, "decode": 0.004}, released)
    assert words in " ".join(answer.meaning.split())
    assert answer.rows[0] == ("cat", 0.9995, "99.95\N{NO-BREAK SPACE}%")
    assert answer.time == "15.1 ms in the service (queue 0.1 ms, decode 4.0 ms)"


def test_the_page_shows_names_as_text(tmp_path: Path):
    """Class names come from folders, and anyone may name a folder."""
    path = tiny.write_artifact(tmp_path / "model.pt", labels=("<b>cat</b>", '"dog"'))
    with running(Settings(model=str(path), workers=1)) as client:
        photo = {"file": ("a.jpg", JPEG)}
        for page in (client.get("/"), client.get("/model"), client.post("/", files=photo)):
            assert "<b>cat" not in page.text
            assert "&lt;b&gt;cat" in page.text


@pytest.mark.parametrize(
    ("labels", "question", "classes"),
    [
        (["cat", "dog"], "Cat or dog?", "cat and dog"),
        (["a", "b", "c"], "A, b or c?", "a, b and c"),
        (
            ["\u0642\u0637\u0629", "dog"],
            "\u2068\u0642\u0637\u0629\u2069 or dog?",
            "\u2068\u0642\u0637\u0629\u2069 and dog",
        ),
        (["x" * 40, "y"], wording.GENERAL, "x" * 40 + " and y"),
        ([str(i) for i in range(1000)], wording.GENERAL, "1,000 classes, such as 0, 1 and 999"),
    ],
)
def test_the_page_asks_what_the_model_answers(labels: list[str], question: str, classes: str):
    """Two short names are the heading; of many, a few are named; none turns the sentence around."""
    assert (wording.question(labels), wording.listed(labels, "and")) == (question, classes)


def test_the_card_is_a_page_for_a_person(tmp_path: Path):
    """Accuracy with interval, n and split, and what the marks mean: all of it from the served model."""
    card = msgspec.structs.replace(
        tiny.card(),
        metrics={"accuracy": Measured(0.9, 0.85, 0.93, 1234), "ece": Measured(0.004, 0, 0.01, 1234)},
        measured_on="validation",
        abstain_bound=0.0123,
        production=InProduction(0.875, 0.81, 0.92, 150, date(2026, 11, 2)),
    )
    with running(Settings(model=str(redness.write(tmp_path / "model.pt", card)), workers=1)) as client:
        text = text_of(client.get("/model").text)
        assert "90.00 % of 1,234 validation photos" in text_of(client.get("/").text)
    for words in (
        "right on 90.00 % of 1,234 photos",
        "85.00 % to 93.00 %",
        "its settings were chosen by them",
        "In production it was right on 87.50 % of 150 photos",
        "drawn at random since 2026-11-02",
        "right on 81.00 % to 92.00 % of",
        "differed by 0.40 % on average",
        "below 80.00 %",
        "at most 1.23 % of the other answers are wrong",
        "This model cannot notice that a photo shows something else",
        "calibration error (ECE) 0.0040 0.0000 to 0.0100 1,234",
        "Code unknown",
    ):
        assert words in text, words


def test_without_a_model_the_pages_say_so(model: Path):
    """A person who comes early is not shown an error."""
    with running(Settings(model="missing.pt"), until="failed") as client:
        assert "The model is loading" in text_of(client.get("/").text)
        assert "The model is loading" in text_of(client.get("/model").text)


def test_examples_are_shown_for_the_classes_they_show(client: Client, tmp_path: Path):
    """A model of other classes has none."""
    assert client.get("/").text.count("data-photo=") == len(read().pictures) > 2
    path = redness.write(tmp_path / "model.pt", tiny.card(("rose", "tulip")))
    with running(Settings(model=str(path), workers=1)) as other:
        assert "data-photo=" not in other.get("/").text


def test_every_example_is_named_with_its_licence():
    """Each picture is in the list and in NOTICE, and no other is there."""
    listed = {picture.file for picture in read().pictures}
    assert listed == {path.name for path in FOLDER.iterdir()} - {"examples.json"}
    notice = (tiny.ROOT / "NOTICE").read_text()
    assert all(name in notice for name in listed)
    assert all(picture.credit for picture in read().pictures)
    assert json.loads((FOLDER / "examples.json").read_text())["labels"] == ["cat", "dog"]


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model-int8.onnx"])
def test_the_released_model_answers_the_examples_as_they_are_listed(name: str):
    """One of each answer: a class, not sure, neither."""
    handler = load_handler(tiny.ROOT / "models/release" / name)
    pictures = examples_for(handler.artifact.card.labels)
    if not pictures:
        pytest.skip("the released model has other classes")
    answers = handler.handle([{"body": (FOLDER / picture.file).read_bytes()} for picture in pictures])
    given = [
        "unfamiliar" if answer.unfamiliar else "uncertain" if answer.uncertain else answer.prediction
        for answer in answers
    ]
    assert given == [picture.answer for picture in pictures]
    assert {"cat", "dog", "uncertain", "unfamiliar"} <= set(given)
