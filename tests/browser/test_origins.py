"""A page of another origin, in Chromium: it may do what the operator allows, and reads nothing otherwise."""

from __future__ import annotations

import base64
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.tiny import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ASK = """async ([address, key, photo]) => {
  const form = new FormData();
  form.append("file", new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))]), "cat.jpg");
  try {
    const reply = await fetch(address, { method: "POST", body: form, headers: { "X-API-Key": key } });
    return { status: reply.status, id: reply.headers.get("X-Request-ID"), answer: await reply.json() };
  } catch (error) {
    return String(error);
  }
}"""
"""What a page does to have a photo classified; the key's header makes the browser ask first."""


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """The origin of a server of plain files."""
    (folder / "index.html").write_text("<!doctype html><title>another origin</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def friend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An origin that the operator allows."""
    with pages(tmp_path_factory.mktemp("friend")) as origin:
        yield origin


@pytest.fixture(scope="module")
def url(environment: Callable[..., dict[str, str]], friend: str) -> Iterator[str]:
    """A service of the released model with a key, open to one origin."""
    model = str(ROOT / "models/release/model.onnx")
    settings = environment(MODEL=model, SERVING_API_KEY="k", SERVING_CORS_ORIGINS=friend)
    with processes.service(settings) as process:
        process.wait_for("ready")
        yield process.url


def ask(chromium: Any, origin: str, url: str, key: str) -> Any:
    """What a page of an origin gets from the service."""
    photo = base64.b64encode((ROOT / "deploy/smoke/cat.jpg").read_bytes()).decode()
    page = chromium.new_page()
    page.goto(origin)
    found = page.evaluate(ASK, [url + "/predict", key, photo])
    page.close()
    return found


def test_a_page_of_an_allowed_origin_reads_answers_and_errors(chromium: Any, url: str, friend: str):
    """With the request's id, which is no header that a browser shows by itself."""
    found = ask(chromium, friend, url, "k")
    assert (found["status"], found["answer"]["prediction"]) == (200, "cat")
    assert found["id"] == found["answer"]["request_id"]
    refused = ask(chromium, friend, url, "wrong")
    assert (refused["status"], refused["answer"]["type"]) == (401, "/problems/unauthorized")


def test_a_page_of_another_origin_reads_nothing(chromium: Any, url: str, tmp_path: Path):
    """The browser refuses, whatever key the page has."""
    with pages(tmp_path) as stranger:
        assert ask(chromium, stranger, url, "k") == "TypeError: Failed to fetch"
