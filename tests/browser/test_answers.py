"""The answers as a person sees them: Chromium, the released model, the examples and drawn pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving.http.examples import read
from tests import processes, tiny
from tests.browser.person import (
    BY_ANSWER,
    CAT,
    NOTES,
    PHONE,
    SHOTS,
    card,
    check_width,
    check_with_axe,
    choose,
    everywhere,
    explain,
)
from tests.pictures import encode, scene

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@everywhere
def test_each_kind_of_answer_is_readable(page: Any):
    """Sure, not sure, neither, refused, with the heat map: axe has no complaint, and all of it fits."""
    choose(page, BY_ANSWER["cat"])
    card(page, "ms in the service")
    check_width(page)
    check_with_axe(page)
    explain(page.locator(".card"))
    check_with_axe(page)
    broken = {"name": "half.jpg", "mimeType": "image/jpeg", "buffer": BY_ANSWER["dog"].read_bytes()[:3000]}
    choose(page, BY_ANSWER["uncertain"], BY_ANSWER["unfamiliar"], NOTES, broken)
    page.locator(".card:not(.waiting)").nth(4).wait_for()
    said = [text.strip() for text in page.locator(".card h2").all_text_contents()]
    assert {
        "cat",
        "Neither cat nor dog, it seems",
        "Not an accepted image format",
        "The image is broken",
    } <= {*said}
    assert any(text.startswith("Not sure: perhaps ") for text in said)
    check_width(page)
    check_with_axe(page)


def test_the_photo_is_large_with_the_answer_next_to_it(page: Any):
    """More than half of a wide page; further photos share the page."""
    choose(page, CAT)
    card(page, "ms in the service")
    photo, heading = page.locator(".photo").bounding_box(), page.locator(".card h2").bounding_box()
    assert photo["width"] > 500
    assert heading["x"] > photo["x"] + photo["width"]
    assert (
        "answers as probable as this one, about one should be wrong" in page.locator(".words").text_content()
    )
    choose(page, CAT)
    card(page, "ms in the service").nth(1).wait_for()
    first, second = (one.bounding_box() for one in page.locator(".card").all())
    assert first["y"] == second["y"]
    assert first["width"] == second["width"]


def test_an_example_is_a_click_away(page: Any):
    """Each is answered as it says; what is not sure and what is neither is explained on its card."""
    buttons = page.locator("#examples button")
    for i, picture in enumerate(read().pictures):
        buttons.nth(i).click()
        answer = card(page, picture.file)
        answer.locator(".words").wait_for()
        said = answer.locator("h2").text_content().strip()
        why = answer.locator(".words").text_content()
        if picture.answer == "uncertain":
            assert said.startswith("Not sure: perhaps ")
            assert "where this model becomes sure" in why
        elif picture.answer == "unfamiliar":
            assert said == "Neither cat nor dog, it seems"
            assert "unlike those the model learned from" in why
        else:
            assert said == picture.answer


def test_a_photo_that_the_browser_cannot_show_is_answered(page: Any):
    """A TIFF: the card says so, and the heat map is the picture."""
    image = Image.open(CAT)
    choose(page, {"name": "cat.tiff", "mimeType": "image/tiff", "buffer": encode(image, "TIFF")})
    answer = card(page, "ms in the service")
    assert "This browser cannot show this photo" in answer.text_content()
    heat = explain(answer)
    assert heat.bounding_box()["width"] > 400
    assert not answer.locator(".unshown").is_visible()
    assert not answer.get_by_role("slider").is_visible()
    check_with_axe(page)


def test_a_format_that_is_not_accepted_is_refused_in_words(page: Any):
    """HEIC, which browsers do not show either: no placeholder, the service's own words."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(1000)
    choose(page, {"name": "IMG_1.HEIC", "mimeType": "image/heic", "buffer": heic})
    answer = card(page, "Not an accepted image format")
    assert "IMG_1.HEIC" in answer.text_content()
    assert "JPEG, PNG" in answer.text_content()
    assert not answer.locator(".unshown").is_visible()


def test_a_message_for_screen_readers_says_the_answer(page: Any):
    """Name, verdict and what it means, in a live region."""
    choose(page, CAT)
    page.locator("#said", has_text="about one should be wrong").wait_for()
    assert page.locator("#said").text_content().lower().startswith("cat.jpg: cat. of ")
    assert page.locator("#said").get_attribute("role") == "status"


@pytest.mark.parametrize("page", [{}, PHONE], ids=["desk", "phone"], indirect=True)
@pytest.mark.parametrize(
    "labels",
    [
        ("<b>cat</b>", "a name so long that " * 8 + "it does not fit"),
        ("قطة", "كلب"),
        tuple(f"class number {i}" for i in range(1000)),
    ],
    ids=["long", "right-to-left", "thousand"],
)
def test_any_names_and_any_number_of_classes_fit(
    page: Any, labels: tuple[str, ...], environment: Callable[..., dict[str, str]], tmp_path: Path
):
    """Names are text, five at most have a bar, nothing is wider than the screen; and no example is shown."""
    model = tiny.write_artifact(tmp_path / "model.pt", labels=labels)
    with processes.service(environment(MODEL=str(model))) as process:
        process.wait_for("ready")
        for path in ("", "/model"):
            page.goto(process.url + path)
            check_width(page)
            check_with_axe(page)
        page.goto(process.url)
        assert page.locator("[data-photo]").count() == 0
        choose(page, {"name": "colours.png", "mimeType": "image/png", "buffer": encode(scene(), "PNG")})
        answer = card(page, "ms in the service")
        assert answer.locator("meter").count() == min(5, len(labels))
        assert answer.locator("b").count() == 0
        check_width(page)
        check_with_axe(page)


def test_print_is_photo_and_answer(page: Any):
    """Without what only a screen can do."""
    choose(page, CAT)
    explain(card(page, "ms in the service"))
    page.emulate_media(media="print")
    assert page.locator(".photo").is_visible()
    assert page.locator(".words").is_visible()
    for hidden in ("#drop", "#examples", "nav", ".why button", ".strength"):
        assert not page.locator(hidden).is_visible(), hidden
    (SHOTS / "print.pdf").write_bytes(page.pdf())


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 900, "height": 640}, "device_scale_factor": 1.25}], indirect=True
)
def test_the_picture_of_the_readme_shows_a_real_photo_answered_right(page: Any):
    """A cat, with the heat map half faded in: build/browser/readme.png is docs/images/page.png."""
    choose(page, CAT)
    answer = card(page, "ms in the service")
    assert answer.locator("h2").text_content().strip() == "cat"
    assert answer.locator("dd", has_text="99.9").count() == 1
    heat = explain(answer)
    answer.get_by_role("slider").fill("75")
    heat.evaluate("one => Promise.all(one.getAnimations().map((each) => each.finished)).then(() => true)")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("scrollTo(0, 0)")
    height = page.evaluate("document.querySelector('.card').getBoundingClientRect().bottom") + 20
    shot = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": 900, "height": height})
    Image.open(io.BytesIO(shot)).convert("RGB").save(SHOTS / "readme.png", optimize=True)
    assert (SHOTS / "readme.png").stat().st_size < 500_000
