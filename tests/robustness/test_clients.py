"""Real clients, each as it is by default, send a photo; those that are not installed are skipped by name."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.robustness.conftest import Target
from tests.tiny import ROOT

pytestmark = pytest.mark.robust

PHOTO = ROOT / "deploy/smoke/cat.jpg"
CLIENTS = Path(__file__).parent / "clients"
COMMANDS = {
    "curl, a form": ["curl", "-sS", "-F", "file=@{photo}", "{address}"],
    "curl, the bytes": ["curl", "-sS", "--data-binary", "@{photo}", "{address}"],
    "curl, offering HTTP/2": ["curl", "-sS", "--http2", "-F", "file=@{photo}", "{address}"],
    "curl, the bytes offering HTTP/2": ["curl", "-sS", "--http2", "--data-binary", "@{photo}", "{address}"],
    "curl, HTTP/1.0": ["curl", "-sS", "--http1.0", "--data-binary", "@{photo}", "{address}"],
    "curl, asking first": ["curl", "-sS", "-H", "Expect: 100-continue", "-F", "file=@{photo}", "{address}"],
    "curl, in chunks": [
        *("curl", "-sS", "-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", "{photo}", "{address}"),
    ],
    "wget": ["wget", "-q", "-O", "-", "--post-file={photo}", "{address}"],
    "Java": ["java", f"{CLIENTS}/Client.java", "{address}", "{photo}"],
    "Node": ["node", f"{CLIENTS}/client.mjs", "{address}", "{photo}"],
    "Go": ["go", "run", f"{CLIENTS}/client.go", "{address}", "{photo}"],
}


def check(answer: str) -> None:
    """Check that the photo was recognised."""
    assert json.loads(answer[answer.index("{") :])["prediction"] == "cat"


@pytest.mark.parametrize("name", COMMANDS)
def test_clients_send_a_photo(target: Target, name: str):
    """With status 200 and the right label."""
    command = [part.format(photo=PHOTO, address=target.url + "/predict") for part in COMMANDS[name]]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    print(f"\nclient {name}: {done.stdout.strip()[:60]}")
    assert done.returncode == 0, done.stderr
    for line in filter(None, done.stdout.splitlines()):
        check(line)


def by_httpx(address: str) -> str:
    """A form."""
    return httpx.post(address, files={"file": PHOTO.read_bytes()}).text


def by_urllib(address: str) -> str:
    """The bytes, as a form that is none."""
    with urllib.request.urlopen(address, PHOTO.read_bytes()) as answer:  # noqa: S310 (our own address)
        return answer.read().decode()


def by_http_client(address: str) -> str:
    """In chunks."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request("POST", parts.path, body=iter([PHOTO.read_bytes()]), encode_chunked=True)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def by_requests(address: str) -> str:
    """A form."""
    return pytest.importorskip("requests").post(address, files={"file": PHOTO.read_bytes()}).text


@pytest.mark.parametrize("client", [by_httpx, by_urllib, by_http_client, by_requests])
def test_clients_of_python_send_a_photo(target: Target, client: Callable[[str], str]):
    """As a form, as bytes, and in chunks."""
    check(client(target.url + "/predict"))
