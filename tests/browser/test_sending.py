"""The ways to send a photo, and what can come between: Chromium and the released model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.http.examples import read
from tests import processes, tiny
from tests.browser.person import CAT, NOTES, PHONE, card, check_width, choose, explain, transfer

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(page: Any, kind: str):
    """The same answer as for a chosen file."""
    transfer(page, kind, "mine.jpg", CAT.read_bytes())
    assert card(page, "ms in the service").locator("h2").text_content().strip() == "cat"


def test_many_photos_at_once_are_all_answered(page: Any):
    """A few at a time; each card belongs to its photo."""
    names = [f"{i}.jpg" for i in range(12)]
    choose(page, *({"name": name, "mimeType": "image/jpeg", "buffer": CAT.read_bytes()} for name in names))
    page.locator(".card .words").nth(11).wait_for()
    assert page.locator("figcaption").all_text_contents() == names


def test_an_unreachable_service_is_reported(page: Any, url: str):
    """In words, on the card; also where something else answers in its place, and where the heat map fails."""
    page.route(f"{url}/", lambda route: route.abort())
    choose(page, CAT)
    card(page, "The service cannot be reached")
    page.route(f"{url}/", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    choose(page, CAT)
    card(page, "The service answered with status 502")
    page.unroute(f"{url}/")
    page.route("**/examples/dog.jpg", lambda route: route.abort())
    page.get_by_role("button", name="A dog").click()
    card(page, "dog.jpg").filter(has_text="The service cannot be reached").wait_for()
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
