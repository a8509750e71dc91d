"""People label photos in Chromium, by keyboard alone and by finger."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.contract.suspects import Suspect, Suspects
from serving.observers.review import schema, suspects, verdicts
from tests import processes, tiny
from tests.browser.person import CAT, LOOKS, SHOTS, check_width, check_with_axe
from tests.tiny import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

KEY = {"X-API-Key": "secret"}
Start = Callable[..., Any]


def noise(seed: int, form: str = "JPEG") -> bytes:
    """A picture like no other seed's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((240, 160), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a hundred classes."""
    labels = (*(f"breed {number:02}" for number in range(99)), "siamese")
    return tiny.write_artifact(tmp_path_factory.mktemp("many") / "model.pt", labels=labels)


@pytest.fixture
def start(
    chromium: Any, environment: Callable[..., dict[str, str]], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Start]:
    """Opens the page of a service that keeps every photo it is sent; a script's error fails the test."""
    faults: list[str] = []
    opened: list[Any] = []

    @contextmanager
    def starting(
        *photos: bytes, model: Path = ROOT / "models/release/model.onnx", **look: object
    ) -> Iterator[Any]:
        settings = environment(
            MODEL=str(model),
            SERVING_API_KEY="secret",
            SERVING_REVIEW=str(tmp_path / "r.db"),
            SERVING_REVIEW_SHARE="1",
        )
        with processes.service(settings) as process:
            process.wait_for("ready")
            for number, photo in enumerate(photos):
                headers = KEY | {"X-Request-ID": f"n{number}"}
                httpx.post(f"{process.url}/predict", content=photo, headers=headers).raise_for_status()
            wait_for_photos(process.url, len(photos))
            context = chromium.new_context(**look)
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on(
                "console", lambda said: faults.append(said.text) if "Content Security" in said.text else None
            )
            page.on("dialog", lambda dialog: dialog.accept("secret"))
            page.goto(f"{process.url}/review")
            opened.append(page)
            yield page
            SHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
            context.close()

    yield starting
    assert opened
    assert not faults


def wait_for_photos(url: str, count: int) -> None:
    """Wait until the queue has stored them."""
    while httpx.get(f"{url}/review/progress", headers=KEY).json()["waiting"] < count:
        pass


def introduce(page: Any, name: str) -> None:
    """Type one's name, and press Enter."""
    page.locator("#name").wait_for()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    settle(page)


def settle(page: Any) -> None:
    """Wait until the page takes an answer."""
    page.locator("#work[aria-busy=false]").wait_for()


def said(page: Any, words: str) -> None:
    """Wait until the page has said so, and takes an answer."""
    page.locator("#said", has_text=words).wait_for()
    settle(page)


def given(tmp_path: Path) -> list[tuple[str, str | None]]:
    """The verdicts in the file, in order."""
    database = schema.connect(tmp_path / "r.db")
    found = database.execute("select verdict, label from verdicts order by at").fetchall()
    database.close()
    return found


def test_a_person_labels_photos_by_keyboard_alone(start: Start, tmp_path: Path):
    """Name, class, neither, cannot tell, undo, and again; the prediction is shown after the answer only."""
    with start(CAT.read_bytes(), noise(1), noise(2)) as page:
        introduce(page, "ada")
        assert page.locator("#progress").text_content() == "0 answered by you, 3 left."
        assert "model said" not in page.locator("main").inner_text()
        check_with_axe(page)
        page.keyboard.press("1")
        said(page, "You said cat. The model said")
        page.locator("#progress", has_text="1 answered by you, 2 left.").wait_for()
        page.keyboard.press("-")
        said(page, "You said none of these.")
        page.locator("#progress", has_text="2 answered by you, 1 left.").wait_for()
        page.keyboard.press("Backspace")
        said(page, "Your last answer is taken back.")
        page.locator("#progress", has_text="1 answered by you, 2 left.").wait_for()
        page.keyboard.press("2")
        said(page, "You said dog.")
        page.locator("#progress", has_text="2 answered by you, 1 left.").wait_for()
        page.keyboard.press(".")
        said(page, "You said that you cannot tell.")
        page.locator("#empty").wait_for()
        check_with_axe(page)
    assert given(tmp_path) == [("label", "cat"), ("label", "dog"), ("cannot-tell", None)]


def test_the_tab_key_reaches_every_answer(start: Start):
    """In the order of the page, with the name that is on the button."""
    with start(CAT.read_bytes()) as page:
        introduce(page, "ada")
        reached = []
        for _ in range(7):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        assert reached == ["1 cat", "2 dog", "neither", "cannot-tell", "undo", "change", "keys"]


def test_keys_can_be_switched_off(start: Start, tmp_path: Path):
    """For people who dictate; the choice outlasts a reload, and so does the name."""
    with start(CAT.read_bytes()) as page:
        introduce(page, "ada")
        page.get_by_label("Keys answer").uncheck()
        page.keyboard.press("1")
        page.reload()
        settle(page)
        page.keyboard.press("1")
        page.get_by_role("button", name="None of these").click()
        said(page, "You said none of these.")
    assert given(tmp_path) == [("neither", None)]


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_page_fits_and_is_accessible(start: Start, look: dict[str, object]):
    """On a desk and a phone, light and dark; a finger needs no key."""
    with start(CAT.read_bytes(), **look) as page:
        page.locator("#name").wait_for()
        check_with_axe(page)
        introduce(page, "ada")
        check_width(page)
        check_with_axe(page)
        page.get_by_role("button", name="cat").click()
        said(page, "You said cat.")
        check_width(page)
        check_with_axe(page)


def test_a_hundred_classes_are_found_by_typing(start: Start, many: Path, tmp_path: Path):
    """Part of the name and Enter; the field has the focus, and the other keys work while it is empty."""
    with start(noise(1), noise(2), model=many) as page:
        introduce(page, "ada")
        page.locator("#filter:focus").wait_for()
        assert page.locator("#classes button").count() == 12
        check_with_axe(page)
        page.keyboard.type("mese")
        page.locator("#matched", has_text="Enter answers siamese.").wait_for()
        page.keyboard.press("Enter")
        said(page, "You said siamese.")
        page.locator("#progress", has_text="1 answered by you, 1 left.").wait_for()
        page.locator("#filter:focus").wait_for()
        page.keyboard.press("-")
        said(page, "You said none of these.")
    assert given(tmp_path) == [("label", "siamese"), ("neither", None)]


def test_a_second_person_is_not_shown_what_the_first_said(start: Start, tmp_path: Path):
    """The same photo again, and then how far they agree."""
    with start(CAT.read_bytes()) as page:
        introduce(page, "ada")
        database = schema.connect(tmp_path / "r.db")
        with database:
            database.execute("update photos set rank = 5, turn = 5")
        database.close()
        page.keyboard.press("1")
        said(page, "You said cat.")
        page.get_by_role("button", name="I am not ada").click()
        page.locator("#name").fill("")
        introduce(page, "bob")
        page.keyboard.press("2")
        said(page, "You said dog.")
        page.locator("#progress", has_text="agreement (Cohen's kappa) is 0.00").wait_for()


def test_a_photo_that_was_deleted_meanwhile_is_left(start: Start, tmp_path: Path):
    """The page says so, and shows the next one."""
    with start(CAT.read_bytes(), noise(1)) as page:
        introduce(page, "ada")
        database = schema.connect(tmp_path / "r.db")
        shown = verdicts.next_photo(database, "ada")
        database.close()
        address = page.url.replace("/review", f"/review/photos/{shown}")
        assert httpx.delete(address, headers=KEY).status_code == 204
        page.keyboard.press("1")
        said(page, "it was deleted")
        page.locator("#progress", has_text="0 answered by you, 1 left.").wait_for()
        page.keyboard.press("1")
        said(page, "You said cat.")


def test_a_format_that_the_browser_cannot_show_can_be_saved(start: Start):
    """A TIFF, as it was sent."""
    with start(noise(1, "TIFF")) as page:
        introduce(page, "ada")
        with page.expect_download() as download:
            page.get_by_role("link", name="Save it").click()
        assert Path(download.value.path()).read_bytes() == noise(1, "TIFF")
        page.keyboard.press("-")
        said(page, "You said none of these.")


def test_a_suspect_is_shown_with_what_it_is_filed_under_after_the_answer(start: Start, tmp_path: Path):
    """The same page and keys, the worst first, with the classes of the photos."""
    photos = [CAT.read_bytes(), noise(1)]
    filed = []
    for number, photo in enumerate(photos):
        (tmp_path / f"{number}.jpg").write_bytes(photo)
        filed.append(
            Suspect(hashlib.sha256(photo).hexdigest(), str(tmp_path / f"{number}.jpg"), "dog", "cat", 0.97)
        )
    database = schema.connect(tmp_path / "r.db")
    suspects.fill(database, Suspects(["bird", "cat", "dog"], filed))
    database.close()
    with start() as page:
        introduce(page, "ada")
        assert "filed under" not in page.locator("main").inner_text()
        page.keyboard.press("2")
        said(page, "You said cat. It is filed under dog; the other photos suggest cat, 97.00 %.")
        page.locator("#progress", has_text="1 answered by you, 1 left.").wait_for()
        check_with_axe(page)
        page.keyboard.press("3")
        said(page, "You said dog.")
    assert given(tmp_path) == [("label", "cat"), ("label", "dog")]
