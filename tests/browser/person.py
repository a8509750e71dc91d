"""What a person does on the pages, and what they must find there."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from serving.http.examples import FOLDER, read
from tests.tiny import ROOT

SHOTS = ROOT / "build/browser"
BY_ANSWER = {picture.answer: FOLDER / picture.file for picture in read().pictures}
CAT = BY_ANSWER["cat"]
PHONE = {"viewport": {"width": 360, "height": 780}, "is_mobile": True, "has_touch": True}
LOOKS = {
    "desk": {},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
    "phone-dark": PHONE | {"color_scheme": "dark"},
}
everywhere = pytest.mark.parametrize("page", LOOKS.values(), ids=LOOKS, indirect=True)
NOTES = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a photo"}


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
    """The cards that contain these words, once one appears."""
    found = page.locator(".card", has_text=words)
    found.first.wait_for()
    return found


def explain(answer: Any) -> Any:
    """Ask why, and return the overlay once it is there."""
    answer.get_by_role("button", name="Show why").click()
    heat = answer.locator(".heat")
    heat.wait_for()
    return heat


def transfer(page: Any, kind: str, name: str, data: bytes) -> None:
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


def check_with_axe(page: Any, leave_out: str = "") -> None:
    """No violation of WCAG 2 A and AA or of axe's best practice, except in what the selector leaves out."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page, context={"exclude": [[leave_out]]} if leave_out else None)
    assert results.violations_count == 0, results.generate_report()


def check_width(page: Any) -> None:
    """Nothing is wider than the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
