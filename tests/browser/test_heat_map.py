"""The heat map over a photo: Chromium and the released model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.person import CAT, card, choose, explain

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


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
