"""Pages of other origins: preflight requests and the headers of answers, as the Fetch standard has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.contract.errors import ConfigurationError
from serving.settings import Settings, from_environment
from tests.conftest import Client, running
from tests.pictures import encode, scene

JPEG = encode(scene())
FRIEND, STRANGER = "https://app.example.org", "https://evil.example.org"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Client]:
    """A service with a key and one friendly origin."""
    with running(Settings(model=str(model), api_key="k", cors_origins=FRIEND)) as ready:
        yield ready


@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer", "/explain", "/nowhere"])
def test_a_preflight_of_a_friend_is_answered_without_a_key(client: Client, path: str):
    """A browser sends no key with it."""
    reply = client.options(path, headers={"Origin": FRIEND, **ASK})
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert {"X-API-Key", "Content-Type"} <= set(reply.headers["access-control-allow-headers"].split(", "))
    assert reply.headers["vary"] == "Origin"


def test_every_answer_to_a_friend_may_be_read_errors_too(client: Client):
    """A page that cannot read an error cannot show it."""
    for key, status in (("k", 200), ("wrong", 401)):
        reply = client.post("/predict", content=JPEG, headers={"Origin": FRIEND, "X-API-Key": key})
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == FRIEND
        assert "X-Request-ID" in reply.headers["access-control-expose-headers"]
    assert client.get("/nowhere", headers={"Origin": FRIEND}).headers["access-control-allow-origin"] == FRIEND


def test_a_stranger_s_page_reads_nothing(client: Client):
    """The answer says that it depends on the origin, so that no cache gives it to the wrong page."""
    for reply in (
        client.options("/predict", headers={"Origin": STRANGER, **ASK}),
        client.post("/predict", content=JPEG, headers={"Origin": STRANGER, "X-API-Key": "k"}),
        client.get("/health"),
    ):
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["vary"] == "Origin"


def test_by_default_no_answer_has_a_header_of_it(model: Path):
    """Nobody's page may read anything."""
    with running(Settings(model=str(model))) as client:
        reply = client.post("/predict", content=JPEG, headers={"Origin": FRIEND})
        assert not [name for name in reply.headers if name.startswith("access-control") or name == "vary"]
        assert client.options("/predict").headers["allow"]


def test_a_star_allows_every_page(model: Path):
    """Without a dependence on the origin."""
    with running(Settings(model=str(model), cors_origins="*")) as client:
        reply = client.post("/predict", content=JPEG, headers={"Origin": STRANGER})
        assert reply.headers["access-control-allow-origin"] == "*"
        assert client.options("/predict", headers={"Origin": "null", **ASK}).status_code == 204


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (
            "https://App.example.org:443, http://localhost:5173",
            "https://app.example.org,http://localhost:5173",
        ),
        ("http://[::1]:80", "http://[::1]"),
        ("*", "*"),
    ],
)
def test_origins_are_read_as_browsers_write_them(given: str, read: str):
    """Lower case, and without the usual port."""
    assert from_environment({"SERVING_CORS_ORIGINS": given}).cors_origins == read


@pytest.mark.parametrize(
    "given", ["app.example.org", "https://app.example.org/", "ftp://a", "https://*.a.org", ","]
)
def test_what_is_no_origin_is_refused_at_the_start(given: str):
    """A typing error would otherwise show in a browser's console only."""
    with pytest.raises(ConfigurationError, match=r"is no origin\. Write scheme, host and port alone"):
        from_environment({"SERVING_CORS_ORIGINS": given})
