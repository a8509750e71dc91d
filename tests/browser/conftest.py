"""A service of the released model, and Chromium to open its pages in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import processes
from tests.browser.person import SHOTS
from tests.tiny import ROOT

DESK = {"width": 1100, "height": 900}


@pytest.fixture(scope="session")
def url(environment: Callable[..., dict[str, str]]) -> Iterator[str]:
    """A service of the released model."""
    with processes.service(environment(MODEL=str(ROOT / "models/release/model.pt"))) as process:
        process.wait_for("ready")
        yield process.url


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser: CHROMIUM, the one on PATH, or playwright's own."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


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
    # A larger window, since a picture of the full page forgets that a finger points.
    width, height = opened.viewport_size["width"], opened.evaluate("document.documentElement.scrollHeight")
    opened.set_viewport_size({"width": width, "height": height})
    opened.screenshot(path=SHOTS / f"{request.node.name.replace('/', '_')}.png")
    context.close()
    assert not faults
