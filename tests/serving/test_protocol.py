"""HTTP as odd and hostile clients speak it, on real connections to a real process."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.pictures import encode, scene
from tests.processes import Process, service

JPEG = encode(scene())
HEAD_SECONDS, CONNECTIONS = 1.0, 24


@pytest.fixture(scope="module")
def process(model: Path, environment: Callable[..., dict[str, str]]) -> Iterator[Process]:
    """A service with short limits."""
    limits = {"SERVING_HEAD_SECONDS": str(HEAD_SECONDS), "SERVING_MAX_CONNECTIONS": str(CONNECTIONS)}
    with service(environment(MODEL=str(model), SERVING_API_KEY="secret", **limits)) as process:
        process.wait_for("ready")
        yield process


def address(process: Process) -> tuple[str, int]:
    """Host and port."""
    host, port = process.url.removeprefix("http://").split(":")
    return host, int(port)


def connect(process: Process) -> socket.socket:
    """A new connection."""
    return socket.create_connection(address(process), timeout=20)


def read(connection: socket.socket) -> bytes:
    """What comes until the service closes."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65536):
            answer += more
    return answer


def exchange(process: Process, *parts: bytes) -> bytes:
    """Send bytes; return what comes until the service closes."""
    with connect(process) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        return read(connection)


def head(*fields: str, line: str = "POST /predict HTTP/1.1", length: int = len(JPEG)) -> bytes:
    """The head of a request with the key."""
    lines = [line, "Host: x", "X-API-Key: secret", f"Content-Length: {length}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def problem(answer: bytes) -> dict[str, object]:
    """The problem details of a raw answer, checked for their form."""
    start, _, body = answer.partition(b"\r\n\r\n")
    lines = start.decode("latin-1").lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    content = json.loads(body)
    assert fields["content-type"] == "application/problem+json"
    assert fields["connection"] == "close"
    assert fields["x-request-id"] == content["request_id"]
    assert lines[0].split()[1] == str(content["status"])
    return content


def test_an_answer_comes_on_a_plain_connection(process: Process):
    """The reference for what follows."""
    answer = exchange(process, head("Connection: close") + JPEG)
    assert answer.startswith(b"HTTP/1.1 200")


UPGRADES = {
    "h2c as Java sends it": [
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAA",
    ],
    "h2c as curl sends it": [
        "Connection: Upgrade, HTTP2-Settings",
        "HTTP2-Settings: AAMAAABk",
        "Upgrade: h2c",
    ],
    "websocket": ["Connection: keep-alive, Upgrade", "Upgrade: websocket"],
    "something else": ["Upgrade: TLS/1.0", "Connection: upgrade"],
}


@pytest.mark.parametrize("offer", UPGRADES)
@pytest.mark.parametrize("step", [None, 1, 700])
def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(process: Process, offer: str, step: int | None):
    """Whatever the packets; the connection continues with HTTP/1.1 (RFC 9110, 7.8)."""
    data = head(*UPGRADES[offer]) + JPEG + head("Connection: close") + JPEG
    parts = [data] if step is None else [data[i : i + step] for i in range(0, len(data), step)]
    answer = exchange(
        process, *parts[: 400 if step == 1 else None], *([b"".join(parts[400:])] if step == 1 else [])
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b'"prediction"') == 2


REFUSED = {
    "an address of 9 KB": (head(line=f"GET /{'a' * 9000} HTTP/1.1", length=0), 414),
    "an address of megabytes": (b"GET /" + b"a" * 3_000_000, 414),
    "a field of 40 KB": (head("X: " + "a" * 40_000, length=0), 431),
    "a field of megabytes": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 3_000_000, 431),
    "a name of a field of megabytes": (b"GET / HTTP/1.1\r\nHost: x\r\nX" + b"a" * 3_000_000, 431),
    "200 fields": (head(*(f"X-{number}: a" for number in range(200)), length=0), 431),
    "no Host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30), 505),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "two lengths": (head("Content-Length: 3"), 400),
    "a length and chunks": (head("Transfer-Encoding: chunked"), 400),
    "a bad chunk": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
    ),
    "a chunk's extension of megabytes": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n1;"
        + b"a" * 3_000_000,
        431,
    ),
    "trailers of megabytes": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 60_000,
        431,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_acceptable_request_gets_a_problem_and_the_connection_closes(process: Process, name: str):
    """With an id and JSON like every error, without the key; the client reads it although it was sending."""
    data, status = REFUSED[name]
    assert problem(exchange(process, data))["status"] == status
    assert httpx.get(process.url + "/health").status_code == 200


def test_a_question_about_the_service_as_a_whole_is_answered(process: Process):
    """`OPTIONS *` names the methods that any address may have (RFC 9110, 9.3.7)."""
    answer = exchange(process, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"\r\nallow: DELETE, GET, HEAD, OPTIONS, POST\r\n" in answer


@pytest.mark.parametrize("name", ["wrong key", "too large", "not a form"])
def test_an_answer_before_the_body_is_read_closes_and_arrives(process: Process, name: str):
    """The client is still sending megabytes when it comes."""
    field = {"wrong key": "X-API-Key: wrong", "not a form": "Content-Type: multipart/form-data"}.get(
        name, "A: b"
    )
    size = 30_000_000 if name == "too large" else 3_000_000
    start = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{field}\r\n"
    key = "" if name == "wrong key" else "X-API-Key: secret\r\n"
    answer = exchange(process, (start + key + "\r\n").encode(), bytes(3_000_000))
    assert problem(answer)["status"] == {"wrong key": 401, "too large": 413, "not a form": 400}[name]


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"POST /predict HTTP/1.1\r\nHost: x\r\nX-"])
def test_a_head_that_does_not_come_closes_the_connection(process: Process, sent: bytes):
    """408 if a part of it had come; nothing to a connection that never spoke."""
    began = time.monotonic()
    answer = exchange(process, sent)
    assert HEAD_SECONDS - 0.1 < time.monotonic() - began < HEAD_SECONDS + 3
    assert problem(answer)["status"] == 408 if sent else answer == b""


@pytest.mark.parametrize("drop", [b"a", b"\r\n"])
def test_a_trickle_does_not_gain_time(process: Process, drop: bytes):
    """Neither of a head nor of empty lines, at the start or after an answer."""
    with connect(process) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(65536)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 10:
                connection.sendall(drop)
                connection.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(65536):
                        break
        assert time.monotonic() - began < HEAD_SECONDS + 3


def test_the_one_that_waited_longest_makes_room(process: Process):
    """Far more half heads than connections: others are answered at once, and the log says so once."""
    waiting = []
    try:
        for _ in range(4 * CONNECTIONS):
            waiting.append(connect(process))
            waiting[-1].sendall(b"GET / HTTP/1.1\r\nX")
        began = time.monotonic()
        assert httpx.get(process.url + "/health/live").status_code == 200
        assert time.monotonic() - began < 1
        assert process.wait_for("too many connections")["limit"] == CONNECTIONS
        text = httpx.get(process.url + "/metrics", headers={"X-API-Key": "secret"}).text
        made_room = next(line for line in text.splitlines() if 'reason="made-room"' in line)
        assert float(made_room.split()[-1]) >= 2 * CONNECTIONS
    finally:
        for connection in waiting:
            connection.close()


def unread(process: Process, requests: int) -> socket.socket:
    """A caller that asks and does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(address(process))
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        connection.send(b"GET /schema/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
    return connection


def test_callers_that_do_not_read_make_room(process: Process):
    """As many as there may be connections: others are answered, and nothing fails when they are cut."""
    waiting = [unread(process, 120) for _ in range(CONNECTIONS + 8)]
    try:
        deadline = time.monotonic() + 10
        while (status := httpx.get(process.url + "/health/live").status_code) != 200:
            assert time.monotonic() < deadline, status
    finally:
        for connection in waiting:
            connection.close()
    assert httpx.get(process.url + "/health/live").status_code == 200
    assert not [line for line in process.lines if line["event"].startswith("Exception")]


def test_far_more_requests_than_are_parsed_at_once_are_answered(process: Process):
    """A thousand small ones that come together, behind a body whose end they share a read with."""
    small = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(process, head() + JPEG + 1000 * small + last)
    assert answer.count(b"HTTP/1.1 200") == 1002


def test_a_caller_that_leaves_behind_requests_disturbs_nobody(process: Process):
    """Its unparsed requests are forgotten with its connection."""
    small = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    for linger in (b"\0" * 8, b"\1\0\0\0\0\0\0\0"):
        with connect(process) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sendall(2000 * small)
            connection.recv(1)
    assert b" 200 " in exchange(process, small.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert not [line for line in process.lines if line["level"] == "error" or "xception" in line["event"]]


def test_what_follows_a_whole_request_does_not_take_its_answer(process: Process):
    """The refusal of rubbish comes after the answer to the photo before it."""
    answer = exchange(process, head() + JPEG + head() + JPEG + b"\x00rubbish\r\n\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]
    assert problem(b"HTTP/1.1 " + answer.split(b"HTTP/1.1 ")[-1])["status"] == 400
    assert not [line for line in process.lines if line["event"].startswith("Exception")]


def test_a_broken_body_behind_a_whole_request_is_refused_in_its_turn(process: Process):
    """Of two pipelined requests the first is answered, the second refused."""
    chunks = head("Transfer-Encoding: chunked").replace(b"Content-Length: %d\r\n" % len(JPEG), b"")
    answer = exchange(process, head() + JPEG + chunks + b"zz\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_pipelined_requests_are_answered_in_order(process: Process):
    """Also more than the service reads ahead."""
    requests = [
        f"GET /{name} HTTP/1.1\r\nHost: x\r\nX-Request-ID: id-{n}\r\n\r\n"
        for n, name in enumerate(("health", "nothing") * 50)
    ]
    last = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(process, ("".join(requests) + last).encode())
    assert answer.count(b"HTTP/1.1 200") == 51
    assert answer.count(b"HTTP/1.1 404") == 50
    places = [answer.index(b"x-request-id: id-%d\r\n" % n) for n in range(100)]
    assert places == sorted(places)


def test_expect_100_continue_is_answered(process: Process):
    """As curl sends it with a large body."""
    with connect(process) as connection:
        connection.sendall(head("Expect: 100-continue", "Connection: close"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(JPEG)
        assert read(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/metrics", "/", "/status", "/schema", "/web/app.js"]
)
def test_head_is_answered_as_get_without_the_body(process: Process, path: str):
    """On every route that answers GET (RFC 9110, 9.1)."""
    with httpx.Client(base_url=process.url, headers={"X-API-Key": "secret"}, follow_redirects=True) as client:
        got, asked = client.get(path), client.head(path)
    assert asked.status_code == got.status_code == 200
    assert asked.content == b""
    assert asked.headers["content-type"] == got.headers["content-type"]
    if path not in ("/health", "/health/live", "/metrics"):  # what tells the time differs
        assert asked.headers["content-length"] == got.headers["content-length"]
