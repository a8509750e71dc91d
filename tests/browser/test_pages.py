"""The page as a person uses it: Chromium, the released model, the examples and drawn pictures."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving.http.examples import read
from tests import processes, tiny
from tests.browser.person import (
    CAT,
    EXAMPLES,
    NOTES,
    SHOTS,
    card,
    check_width,
    check_with_axe,
    choose,
    transfer,
)
from tests.pictures import encode, scene
from tests.tiny import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

PHONE = {"viewport": {"width": 360, "height": 780}, "is_mobile": True, "has_touch": True}
LOOKS = {
    "desk": {},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
    "phone-dark": PHONE | {"color_scheme": "dark"},
}
everywhere = pytest.mark.parametrize("page", LOOKS.values(), ids=LOOKS, indirect=True)
BY_ANSWER = {picture.answer: EXAMPLES / picture.file for picture in read().pictures}


def explain(answer: Any) -> Any:
    """Ask why, and return the overlay once it is there."""
    answer.get_by_role("button", name="Show why").click()
    heat = answer.locator(".heat")
    heat.wait_for()
    return heat


@everywhere
def test_the_empty_page_asks_the_question(page: Any):
    """The question, a way to send a photo, the examples, and a link that says how the model was measured."""
    assert page.locator("h1").text_content() == "Cat or dog?"
    assert page.locator("#examples img").evaluate_all("all => all.every((one) => one.naturalWidth > 0)")
    page.get_by_role("link", name="How that was measured").wait_for()
    check_width(page)
    check_with_axe(page)


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


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(page: Any, kind: str):
    """The same answer as for a chosen file."""
    transfer(page, kind, "mine.jpg", CAT.read_bytes())
    assert card(page, "ms in the service").locator("h2").text_content().strip() == "cat"


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


def test_a_heat_map_fades_over_the_photo(page: Any):
    """Over the very photo; a slider goes from one to the other, and the button takes it away and back."""
    choose(page, CAT)
    answer = card(page, "ms in the service")
    heat = explain(answer)
    assert heat.bounding_box() == pytest.approx(page.locator(".photo").bounding_box(), abs=1)
    assert "transition" in heat.evaluate("one => getComputedStyle(one).transitionProperty + ' transition'")
    assert heat.evaluate("one => getComputedStyle(one).transitionDuration") == "0.6s"
    slider = answer.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    assert heat.evaluate("one => one.style.opacity") == "0"
    page.keyboard.press("End")
    assert heat.evaluate("one => one.style.opacity") == "1"
    assert "Orange areas speak for cat" in answer.text_content()
    button = answer.get_by_role("button", name="Show why")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not slider.is_visible()
    assert heat.evaluate("one => one.style.opacity") == "0"


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_nothing_moves_for_who_wants_no_motion(page: Any):
    """The heat map is there at once."""
    choose(page, CAT)
    heat = explain(card(page, "ms in the service"))
    assert heat.evaluate("one => getComputedStyle(one).transitionDuration") == "0s"


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


def test_many_photos_at_once_are_all_answered(page: Any):
    """A few at a time; each card belongs to its photo."""
    names = [f"{i}.jpg" for i in range(12)]
    choose(page, *({"name": name, "mimeType": "image/jpeg", "buffer": CAT.read_bytes()} for name in names))
    page.locator(".card .words").nth(11).wait_for()
    assert page.locator("figcaption").all_text_contents() == names


def test_a_message_for_screen_readers_says_the_answer(page: Any):
    """Name, verdict and what it means, in a live region."""
    choose(page, CAT)
    page.locator("#said", has_text="about one should be wrong").wait_for()
    assert page.locator("#said").text_content().lower().startswith("cat.jpg: cat. of ")
    assert page.locator("#said").get_attribute("role") == "status"


def test_an_unreachable_service_is_reported(page: Any, url: str):
    """In words, on the card; also where something else answers in its place, and where the heat map fails."""
    page.route(f"{url}/", lambda route: route.abort())
    choose(page, CAT)
    card(page, "The service cannot be reached")
    page.route(f"{url}/", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    choose(page, CAT)
    card(page, "The service answered with status 502")
    page.unroute(f"{url}/")
    page.route("**/explain", lambda route: route.abort())
    choose(page, CAT)
    card(page, "ms in the service").get_by_role("button", name="Show why").click()
    card(page, "No heat map: The service cannot be reached.")


def test_the_key_is_asked_for_once(page: Any, environment: Callable[..., dict[str, str]], tmp_path: Path):
    """However many photos are sent at once; a heat map needs no second question."""
    model = tiny.write_artifact(tmp_path / "model.pt")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept("secret")))
    with processes.service(environment(MODEL=str(model), SERVING_API_KEY="secret")) as process:
        process.wait_for("ready")
        page.goto(process.url)
        choose(page, CAT, CAT, CAT)
        page.locator(".card .words").nth(2).wait_for()
        explain(page.locator(".card").first)
    assert len(asked) == 1


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


def test_the_keyboard_reaches_everything(page: Any):
    """Tab to the file input, to the answer's button, to the examples and the links."""
    choose(page, CAT)
    card(page, "ms in the service").get_by_role("button", name="Show why").wait_for()
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
    assert {"file", "Show why", read().pictures[0].shows, "Status"} <= set(reached)
    assert "camera" not in reached


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_phone_offers_its_camera_first(page: Any):
    """Above the button that chooses, also for the keyboard; there is nothing to drop."""
    shoot, choice = page.locator("#shoot").bounding_box(), page.locator("#choose").bounding_box()
    assert shoot["y"] + shoot["height"] <= choice["y"]
    assert shoot["height"] >= 44
    assert page.locator("#camera").get_attribute("capture") == "environment"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "camera"
    assert not page.locator("#hint").is_visible()
    page.set_input_files("#camera", str(CAT))
    card(page, "ms in the service")


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


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_javascript_one_photo_is_answered(page: Any):
    """A plain form: choose, ask, read; an error is shown too."""
    assert not page.locator("#examples").is_visible()
    page.set_input_files("#file", str(CAT))
    page.get_by_role("button", name="Ask").click()
    assert page.locator(".card h2").text_content().strip() == "cat"
    check_width(page)
    page.set_input_files("#file", NOTES)
    page.get_by_role("button", name="Ask").click()
    assert page.locator(".card h2").text_content() == "Not an accepted image format"


@everywhere
def test_the_model_page_says_how_it_was_measured(page: Any):
    """The card of the released model, in words."""
    page.get_by_role("link", name="How that was measured").click()
    page.locator("h1", has_text="How the model was measured").wait_for()
    released = json.loads((ROOT / "models/release/card.json").read_text())
    right = f"{100 * released['metrics']['accuracy']['value']:.2f} % of 2,330 photos"
    page.locator("main strong", has_text=right).wait_for()
    check_width(page)
    check_with_axe(page)


@pytest.mark.parametrize("page", [{}, {"color_scheme": "dark"}], ids=["light", "dark"], indirect=True)
def test_a_problem_has_a_page(page: Any, url: str):
    """Readable, with a way to the others."""
    page.goto(f"{url}/problems/unsupported-image")
    check_with_axe(page)
    page.get_by_role("link", name="Classify a photo").click()
    page.locator("#drop").wait_for()


def test_the_documented_javascript_works(page: Any, url: str):
    """The snippet for a page with a file input, typed as it stands."""
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs/serve.md").read_text(), re.DOTALL)
    page.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          globalThis.input = { files: [new File([bytes], "cat.png")] };
        }""",
        base64.b64encode(CAT.read_bytes()).decode(),
    )
    body = code.replace("http://127.0.0.1:8000", url)
    answer = page.evaluate(f"async () => {{ {body} return answer; }}")
    assert answer["prediction"] == "cat"


def test_the_api_is_described_without_another_host(page: Any, url: str):
    """Swagger UI from local files: each route, a real example, nothing fetched from elsewhere."""
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(f"{url}/schema")
    page.locator(".opblock", has_text="/predict").first.click()
    version = json.loads((ROOT / "models/release/card.json").read_text())["version"]
    page.locator(f"text={version}").first.wait_for()
    assert page.locator(".opblock").count() >= 7
    assert hosts == {url.split("/")[2]}


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
