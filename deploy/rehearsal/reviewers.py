"""People in front of `/review`, played by Chromium: they see a photo, press a key, and see the next one.

Each knows the truth about the photo in front of them by its bytes, as a person knows a cat; the second person
is mistaken now and then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rehearsal.callers import KEY, get
from rehearsal.machine import URL
from rehearsal.worlds import Truth
from training.photos.drawn import LABELS

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

_OTHER: Final = {LABELS[0]: LABELS[1], LABELS[1]: LABELS[0]}


@dataclass
class Reviewer:
    """A person who labels."""

    name: str
    mistaken_every: int = 0
    """One in so many answers is wrong; 0 for none."""
    seconds: list[float] = field(default_factory=list)
    """Of each answer, until the next photo is there."""

    @property
    def answers(self) -> int:
        """How many they have given."""
        return len(self.seconds)

    def says(self, label: str) -> str:
        """The answer to a photo of this label."""
        mistaken = self.mistaken_every and (self.answers + 1) % self.mistaken_every == 0
        return _OTHER[label] if mistaken else label


class Desk:
    """The review page, open in a browser."""

    def __init__(self, page: Page, truth: Truth) -> None:
        self._page, self._truth = page, truth
        self._shown = ""
        page.on("dialog", lambda dialog: dialog.accept(KEY))
        page.on("request", self._note)
        page.goto(f"{URL}/review")

    def _note(self, request: Request) -> None:
        """Remember which photo the page fetches to show it."""
        if "/review/photos/" in request.url:
            self._shown = request.url.rpartition("/")[2]

    def sit_down(self, reviewer: Reviewer) -> None:
        """Enter one's name, in place of whoever sat there."""
        if self._page.locator("#change").is_visible():
            self._page.locator("#change").click()
        self._page.locator("#name").fill("")
        self._page.keyboard.type(reviewer.name)
        self._page.keyboard.press("Enter")
        self._settle()

    def label(self, reviewer: Reviewer, most: int) -> None:
        """Answer by keyboard until `most` answers are given or no photo waits."""
        while reviewer.answers < most and not self._page.locator("#empty").is_visible():
            began = time.monotonic()
            said = reviewer.says(self._label())
            self._page.keyboard.press(str(LABELS.index(said) + 1))
            self._page.locator("#progress", has_text=f"{reviewer.answers + 1} answered by you").wait_for()
            self._settle()
            reviewer.seconds.append(time.monotonic() - began)

    def _label(self) -> str:
        """What the photo on the page shows."""
        return self._truth[hashlib.sha256(get(f"/review/photos/{self._shown}")).hexdigest()].label

    def picture(self, path: Path) -> None:
        """Take a picture of the page."""
        self._page.screenshot(path=path, full_page=True)

    @property
    def progress(self) -> str:
        """What the page says of how far the review is."""
        said: str = self._page.locator("#progress").inner_text()
        return said

    def _settle(self) -> None:
        self._page.locator("#work[aria-busy=false]").wait_for()


@contextlib.contextmanager
def desk(truth: Truth) -> Iterator[Desk]:
    """Open the review page in Chromium: CHROMIUM, the one on PATH, or playwright's own."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield Desk(browser.new_page(viewport={"width": 1100, "height": 900}), truth)
        finally:
            browser.close()
