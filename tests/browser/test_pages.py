"""The pages around the answers: Chromium and the released model."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tests.browser.person import CAT, check_width, check_with_axe, everywhere
from tests.tiny import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@everywhere
def test_the_empty_page_asks_the_question(page: Any):
    """The question, a way to send a photo, the examples, and a link that says how the model was measured."""
    assert page.locator("h1").text_content() == "Cat or dog?"
    assert page.locator("#examples img").evaluate_all("all => all.every((one) => one.naturalWidth > 0)")
    page.get_by_role("link", name="How that was measured").wait_for()
    check_width(page)
    check_with_axe(page)


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
    check_with_axe(page, leave_out=".swagger-ui")
