"""The status page as a person uses it: Chromium and the released model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.person import CAT, check_width, check_with_axe, everywhere
from tests.tiny import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def report(**drift: Any) -> dict[str, Any]:
    """A quarter of an hour of 1,200 photos, some uncertain, as the service reports it."""
    period = {
        "outcomes": {"ok": 20, "overloaded": 3, "empty": 1},
        "mean_ms": 21.5,
        "p99_ms": None,
        "uncertain": 2,
        "unfamiliar": 1,
    }
    distances = {"brightness": 0.31, "aspect": 0.04}
    periods = [
        period
        | {"ended_seconds_ago": 15.0 * i, "drift": {k: v * (60 - i) / 60 for k, v in distances.items()}}
        for i in range(59, -1, -1)
    ]
    together = period | {"outcomes": {"ok": 1200, "overloaded": 180, "empty": 60}, "uncertain": 120}
    window = {
        "photos": 1000,
        "least": 100,
        "distance": 0.15,
        "z": 6,
        "estimated_accuracy": 0.981,
        "quantities": [
            {"name": name, "distance": distance, "z": 40 * distance, "drifted": distance > 0.15}
            for name, distance in distances.items()
        ],
    }
    return {
        "period_seconds": 15,
        "periods": periods,
        "together": together | {"unfamiliar": 60, "p99_ms": 74.2, "ended_seconds_ago": 0, "drift": {}},
        "kept": 60,
        "least_for_p99": 100,
        "least_for_share": 100,
        "drift": window | drift,
        "labelled": 120,
        "labelled_right": 0.975,
    }


def show(page: Any, url: str, content: dict[str, Any]) -> None:
    """Open the page with these figures."""
    page.route("**/status/minutes", lambda route: route.fulfill(json=content))
    page.goto(f"{url}/status")
    page.locator("#charts svg").first.wait_for()


def test_a_fresh_service_says_what_it_cannot_say_yet(page: Any, url: str):
    """After two photos there is no percentile, no share and no distance: too few photos."""
    for _ in range(2):
        page.request.post(f"{url}/predict", data=CAT.read_bytes())
    page.goto(f"{url}/status")
    page.locator("#charts svg").first.wait_for()
    released = json.loads((ROOT / "models/release/card.json").read_text())
    assert f"Ready. Model {released['name']} {released['version']}." in page.locator("#state").text_content()
    assert page.locator("#figures .few").count() >= 3
    assert "Too few photos" in page.locator("#drift").text_content()
    assert page.locator("#drift svg").count() == 0
    check_with_axe(page)


def test_requests_are_drawn_as_they_come(page: Any, url: str):
    """The page looks again by itself."""
    page.clock.install()
    page.goto(f"{url}/status")
    page.locator("#charts svg").first.wait_for()
    before = page.locator("#figures dd").first.text_content()
    for _ in range(3):
        page.request.post(f"{url}/predict", data=CAT.read_bytes())
    page.clock.run_for(5000)
    page.locator("#figures dd").first.filter(has_not_text=before).wait_for()


@everywhere
def test_a_busy_service_is_drawn(page: Any, url: str):
    """Charts with words for whoever does not see them; what has drifted is said in words too."""
    show(page, url, report())
    assert page.locator("#drift svg").count() == 2
    assert "brightness 0.31, z 12.4: drifted" in page.locator("#drift .alarm").text_content()
    assert "0.15" in page.locator("#rule").text_content()
    names = page.locator("svg").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert "Requests: 1200 answered, 60 refused, 180 failed, at most 24 in a period" in names
    assert any("the limit is 0.15" in name for name in names)
    page.get_by_text("The charts as a table").click()
    assert page.locator("#periods tbody tr").count() == 60
    check_width(page)
    check_with_axe(page)


def test_a_model_without_a_reference_has_no_drift(page: Any, url: str):
    """The page says so."""
    show(page, url, report() | {"drift": None})
    assert page.locator("#rule").text_content() == "The model has no drift reference."


def test_a_key_is_asked_for_once(page: Any, url: str):
    """Whoever declines is not asked at each update."""
    asked: list[str] = []
    page.clock.install()
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.route("**/status/minutes", lambda route: route.fulfill(status=401, json={}))
    page.goto(f"{url}/status")
    page.locator("#state", has_text="require the API key").wait_for()
    with page.expect_response("**/status/minutes"):
        page.clock.run_for(5000)
    assert len(asked) == 1


def test_a_service_that_is_gone_is_reported(page: Any, url: str):
    """In words."""
    page.route("**/status/minutes", lambda route: route.abort())
    page.goto(f"{url}/status")
    page.locator("#state", has_text="The service cannot be reached").wait_for()
