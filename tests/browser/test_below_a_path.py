"""The pages below a path, behind a proxy that strips it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.person import CAT, NOTES, card, choose
from tests.browser.proxy import below

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def pets(url: str) -> Iterator[str]:
    """The service below `/pets/`."""
    with below("/pets", url) as address:
        yield address


@pytest.fixture
def missed(page: Any) -> list[str]:
    """The addresses that were asked for and not found."""
    found: list[str] = []
    page.on("response", lambda reply: found.append(reply.url) if reply.status == 404 else None)
    return found


def test_a_photo_is_answered_and_explained(page: Any, pets: str, missed: list[str]):
    """Form, styles, scripts, examples, heat map and the address of a problem."""
    page.goto(pets)
    choose(page, CAT)
    card(page, "ms in the service").get_by_role("button", name="Show why").click()
    page.locator(".heat").wait_for()
    page.locator("[data-photo]").nth(1).click()
    page.locator(".card figcaption").nth(1).wait_for()
    choose(page, NOTES)
    card(page, "Not an accepted image format").get_by_role("link").click()
    assert page.locator("h1").text_content() == "Not an accepted image format"
    assert page.url == f"{pets}problems/unsupported-image"
    page.get_by_role("link", name="Classify a photo").click()
    page.locator("#drop").wait_for()
    assert page.url == pets
    assert not missed


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_the_form_works_without_javascript(page: Any, pets: str, missed: list[str]):
    """It is sent to where the page came from."""
    page.goto(pets)
    page.set_input_files("#file", str(CAT))
    page.get_by_role("button", name="Ask").click()
    assert page.locator(".card h2").text_content().strip() == "cat"
    assert page.url == pets
    assert not missed


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_status_is_drawn(page: Any, pets: str, missed: list[str], slash: str):
    """Whether or not somebody typed a slash after it."""
    page.goto(f"{pets}status{slash}")
    page.locator("#charts svg").first.wait_for()
    assert not missed


def test_every_link_leads_somewhere(page: Any, pets: str, missed: list[str]):
    """From each page to each other one."""
    for path in ("", "model", "status", "problems/empty"):
        page.goto(f"{pets}{path}")
        links = page.locator("a").evaluate_all("links => links.map((link) => link.href)")
        assert len(links) >= 6
        for link in links:
            assert link.startswith(pets)
            assert page.request.get(link).status == 200, link
    assert not missed


def test_the_api_can_be_tried(page: Any, pets: str, missed: list[str]):
    """Swagger UI calls the service below the path."""
    page.goto(f"{pets}schema")
    route = page.locator("#operations-default-getLiveness")
    route.locator("button").first.click()
    route.get_by_role("button", name="Try it out").click()
    route.get_by_role("button", name="Execute").click()
    asked = route.locator(".request-url pre")
    asked.wait_for()
    assert asked.text_content() == f"{pets}health/live"
    route.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert not missed
