"""The pages as a person uses them: Chromium, the released model, drawn photos."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.pictures import encode, scene
from tests.tiny import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CAT, DOG = ROOT / "deploy/smoke/cat.jpg", ROOT / "deploy/smoke/dog.jpg"
MODEL = ROOT / "models/release/model.pt"
SHOTS = ROOT / "build/browser"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1100, "height": 900}


@pytest.fixture(scope="module")
def url(environment: Callable[..., dict[str, str]]) -> Iterator[str]:
    """A service of the released model."""
    with processes.service(environment(MODEL=str(MODEL))) as process:
        process.wait_for("ready")
        yield process.url


@pytest.fixture
def page(chromium: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh page; a script's error or a refused part of the page fails the test."""
    options = getattr(request, "param", {})
    context = chromium.new_context(**{"viewport": DESK} | options)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
    opened.goto(url)
    yield opened
    SHOTS.mkdir(parents=True, exist_ok=True)
    opened.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not faults


def choose(page: Any, *photos: Path | dict[str, object]) -> None:
    """Choose photos, as the file dialogue does."""
    files = [
        {"name": photo.name, "mimeType": "image/jpeg", "buffer": photo.read_bytes()}
        if isinstance(photo, Path)
        else photo
        for photo in photos
    ]
    page.set_input_files("#file", files)


def card(page: Any, words: str) -> Any:
    """The card that contains these words, once it appears."""
    found = page.locator(".card", has_text=words)
    found.first.wait_for()
    return found


def drop(page: Any, kind: str, name: str, data: bytes) -> None:
    """Drop or paste a file, as the browser hands it to the page."""
    page.evaluate(
        """([kind, name, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
          const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
            : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
          document.querySelector("#drop").dispatchEvent(event);
        }""",
        [kind, name, base64.b64encode(data).decode()],
    )


def check_with_axe(page: Any) -> None:
    """No violation of WCAG 2 A and AA or of axe's best practice."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_several_photos_become_a_grid_of_answers(page: Any):
    """A cat and a dog at once: two cards with bars and times, and the model's version below.

    The most probable class has the first bar. The drawn dog looks unlike any photo that the released model
    was trained on.
    """
    choose(page, CAT, DOG)
    page.locator(".card meter").nth(3).wait_for()
    first = [bars.locator("meter").first for bars in page.locator(".card").all()]
    assert sorted(bar.get_attribute("aria-label") for bar in first) == [
        "probability of cat",
        "probability of dog",
    ]
    assert all(float(bar.get_attribute("value")) > 0.9 for bar in first)
    assert sorted(page.locator(".card h2").all_text_contents()) == ["Something else, it seems", "cat"]
    assert "ms in the service (queue" in page.locator(".card").first.text_content()
    assert "2026." in page.locator("footer").text_content()
    check_with_axe(page)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(page: Any, kind: str):
    """The same answer as for a chosen file."""
    drop(page, kind, "mine.jpg", CAT.read_bytes())
    assert card(page, "ms in the service").locator("h2").text_content() == "cat"


def test_a_photo_is_explained_on_demand(page: Any):
    """The heat map replaces the photo, and the photo comes back."""
    choose(page, DOG)
    button = card(page, "ms in the service").get_by_role("button", name="Show why")
    plain = page.locator(".photo").get_attribute("src")
    button.click()
    page.get_by_role("button", name="Show the photo").wait_for()
    heat = page.locator(".photo").get_attribute("src")
    assert heat != plain
    assert page.evaluate("document.querySelector('.photo').decode().then(() => true)")
    check_with_axe(page)
    page.get_by_role("button", name="Show the photo").click()
    assert page.locator(".photo").get_attribute("src") == plain


def test_an_unfamiliar_picture_is_called_so(page: Any):
    """A picture of four colours is neither; the card says so in words, not by colour alone."""
    choose(page, {"name": "colours.png", "mimeType": "image/png", "buffer": encode(scene(), "PNG")})
    text = card(page, "ms in the service").text_content()
    assert "Something else, it seems" in text or "Not sure" in text


def test_errors_are_shown_in_words(page: Any):
    """A broken file and one that is not a photo, next to one that is answered."""
    broken = {"name": "half.jpg", "mimeType": "image/jpeg", "buffer": CAT.read_bytes()[:3000]}
    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a photo"}
    choose(page, broken, notes, CAT)
    assert "half.jpg" in card(page, "The image is broken").text_content()
    assert "notes.txt" in card(page, "Not an accepted image format").text_content()
    page.locator(".card h2", has_text="cat").wait_for()
    check_with_axe(page)


@pytest.mark.parametrize(
    ("cat", "shown"),
    [
        (1.0, ["> 99.99 %", "< 0.01 %"]),
        (0.99996, ["> 99.99 %", "< 0.01 %"]),
        (0.9999, ["99.99 %", "0.01 %"]),
        (0.5, ["50.00 %", "50.00 %"]),
    ],
)
def test_no_probability_is_shown_as_certain(page: Any, cat: float, shown: list[str]):
    """Neither 100.00 % nor 0.00 %, on the card and in the message for screen readers."""

    def answer(route: Any) -> None:
        reply = route.fetch()
        changed = {"probability": cat, "probabilities": {"cat": cat, "dog": 1 - cat}}
        route.fulfill(response=reply, json=reply.json() | changed)

    page.route("**/predict?top=5", answer)
    choose(page, CAT)
    texts = card(page, "ms in the service").locator("dd").all_text_contents()
    assert [text for text in texts if text] == shown
    assert page.locator("#said").text_content().endswith(f", {shown[0]}")


def test_an_unreachable_service_is_reported(page: Any, url: str):
    """In words, on the card."""
    page.route("**/predict?top=5", lambda route: route.abort())
    choose(page, CAT)
    card(page, "The service cannot be reached")


def test_the_keyboard_reaches_everything(page: Any):
    """Tab to the file input, to the camera, to the button of an answer."""
    choose(page, CAT)
    card(page, "ms in the service").get_by_role("button", name="Show why").wait_for()
    page.keyboard.press("Tab")
    reached = []
    for _ in range(8):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert {"file", "camera", "Show why", "Status"} <= set(reached)


@pytest.mark.parametrize("page", [{"viewport": PHONE, "is_mobile": True, "has_touch": True}], indirect=True)
def test_a_phone_shows_all_of_it(page: Any):
    """Nothing wider than the screen; the camera is offered."""
    choose(page, CAT, DOG)
    page.locator(".card meter").nth(3).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#shoot").is_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    check_with_axe(page)


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_dark_is_as_readable(page: Any):
    """Contrast is enough, as axe checks."""
    choose(page, CAT, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a photo"})
    card(page, "Not an accepted image format")
    card(page, "ms in the service")
    check_with_axe(page)


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_javascript_one_photo_is_answered(page: Any):
    """A plain form: choose, ask, read; an error is shown too."""
    page.set_input_files("#file", str(CAT))
    page.get_by_role("button", name="Ask").click()
    assert page.locator(".card h2").text_content() == "cat"
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no photo"})
    page.get_by_role("button", name="Ask").click()
    assert page.locator(".card h2").text_content() == "Not an accepted image format"


def test_the_status_page_shows_what_happens(page: Any, url: str):
    """Requests, latency, probabilities and drift, live."""
    choose(page, CAT, DOG)
    page.locator(".card meter").nth(3).wait_for()
    page.goto(f"{url}/status")
    page.locator("#drift td", has_text="brightness").wait_for()
    released = json.loads((ROOT / "models/release/card.json").read_text())
    assert released["name"] in page.locator("#state").text_content()
    asked = int(page.locator("#outcomes tr", has_text="ok").locator("td").nth(1).text_content())
    assert asked >= 2
    for _ in range(3):
        page.request.post(f"{url}/predict", data=CAT.read_bytes())
    page.locator("#outcomes td", has_text=str(asked + 3)).wait_for()
    check_with_axe(page)


def test_the_documented_javascript_works(page: Any, url: str):
    """The snippet for a page with a file input, typed as it stands."""
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs/serve.md").read_text(), re.DOTALL)
    page.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          globalThis.input = { files: [new File([bytes], "dog.jpg")] };
        }""",
        base64.b64encode(DOG.read_bytes()).decode(),
    )
    body = code.replace("http://127.0.0.1:8000", url)
    answer = page.evaluate(f"async () => {{ {body} return answer; }}")
    assert answer["prediction"] == "dog"


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
    "page", [{"viewport": {"width": 760, "height": 600}, "device_scale_factor": 1.5}], indirect=True
)
def test_a_real_photo_is_answered_right_as_the_readme_shows(page: Any):
    """Twice the same cat, once with its heat map: build/browser has the README's picture."""
    photo = (ROOT / "docs/examples/cat.png").read_bytes()
    for name in ("cat.png", "again.png"):
        choose(page, {"name": name, "mimeType": "image/png", "buffer": photo})
        page.locator(".card img").nth(["cat.png", "again.png"].index(name)).wait_for()
    card(page, "Cat").nth(1).wait_for()
    assert page.locator(".card", has_text="> 99.99 %").count() == 2
    page.get_by_role("button", name="Show why").first.click()
    page.locator(".card .small", has_text="Orange areas support").wait_for()
