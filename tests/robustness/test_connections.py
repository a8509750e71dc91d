"""Connections that misbehave: slow, half closed, dropped, lying about lengths, flooding headers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.pictures import encode, scene
from tests.robustness.conftest import SCALE, Target

pytestmark = pytest.mark.robust

JPEG = encode(scene())


def raw(target: Target, data: bytes, *, half_close: bool = False, wait_seconds: float = 5.0) -> bytes:
    """Send bytes on a new connection; return what comes back until it closes or the time is up."""
    parts = urlsplit(target.url)
    answer = b""
    address = parts.hostname, parts.port
    with socket.create_connection(address, timeout=wait_seconds) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65536):
            answer += more
    return answer


def head(length: object, *more: str) -> bytes:
    """The head of a request."""
    lines = ["POST /predict HTTP/1.1", "Host: x", f"Content-Length: {length}", "Connection: close", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


CASES = {
    "whole": (head(len(JPEG)) + JPEG, b"200"),
    "chunked": (
        head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        + b"".join(
            b"%x\r\n%s\r\n" % (len(JPEG[i : i + 100]), JPEG[i : i + 100]) for i in range(0, len(JPEG), 100)
        )
        + b"0\r\n\r\n",
        b"200",
    ),
    "length too short": (head(len(JPEG) - 200) + JPEG, b"422"),
    "length negative": (head(-5) + JPEG, b"400"),
    "length not a number": (head("many") + JPEG, b"400"),
    "length enormous": (head(10**15) + JPEG, b"413"),
    "two lengths": (head(len(JPEG), "Content-Length: 3") + JPEG, b"400"),
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, b"400"),
    "header flood": (head(0, *(f"X-{i}: {'a' * 500}" for i in range(2000))), b"4"),
    "bad chunk": (
        head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\nrubbish\r\n",
        b"400",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_connections_that_lie(target: Target, name: str):
    """A clear refusal or a closed connection; never a 500, and the service keeps running."""
    data, expected = CASES[name]
    answer = raw(target, data)
    line = answer.split(b"\r\n")[0]
    print(f"\nconnection {name}: {line.decode('latin-1') or 'closed'}")
    assert not answer or line.split(b" ")[1].startswith(expected)
    assert b" 500 " not in line
    target.check(JPEG)


def test_connections_half_closed_after_the_request_are_answered(target: Target):
    """A caller may close its side once it has sent everything."""
    answer = raw(target, head(len(JPEG)) + JPEG, half_close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200")
    assert raw(target, head(len(JPEG)) + JPEG[:100], half_close=True, wait_seconds=10) == b""
    target.check(JPEG)


def test_connections_opened_and_dropped_leave_nothing(target: Target):
    """Thousands opened, some with half a request, all dropped: they leave no descriptors or memory behind."""
    count = int(2000 * SCALE)
    parts = urlsplit(target.url)

    async def drop(number: int, slots: asyncio.Semaphore) -> None:
        async with slots:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                if number % 2:
                    writer.write(head(len(JPEG)) + JPEG[: number % len(JPEG)])
                    await writer.drain()
                writer.transport.abort()

    async def all_of_them() -> None:
        slots = asyncio.Semaphore(200)
        await asyncio.gather(*(drop(number, slots) for number in range(count)))

    target.check(JPEG)
    before, memory = target.child.num_fds(), target.resident_mb()
    began = time.perf_counter()
    asyncio.run(all_of_them())
    seconds = time.perf_counter() - began
    target.check(JPEG)
    deadline = time.monotonic() + 10
    while target.child.num_fds() > before + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    after, grown = target.child.num_fds(), target.resident_mb() - memory
    print(f"\nconnections: {count} dropped in {seconds:.1f} s")
    print(f"descriptors {before} -> {after}, resident memory {grown:+.0f} MB")
    assert after <= before + 5
    assert grown < 60


def test_connections_that_are_slow_block_nobody(target: Target):
    """With two hundred stalled uploads, a photo is answered as fast as ever."""
    parts = urlsplit(target.url)
    slow = [socket.create_connection((parts.hostname, parts.port)) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(head(len(JPEG)) + JPEG[:50])
        with httpx.Client(base_url=target.url) as client:
            times = []
            for _ in range(20):
                began = time.perf_counter()
                assert client.post("/predict", content=JPEG).status_code == 200
                times.append(time.perf_counter() - began)
        print(f"\nconnections slow: median alongside 200 slow uploads {1000 * sorted(times)[10]:.1f} ms")
        assert sorted(times)[10] < 0.5
    finally:
        for connection in slow:
            connection.close()
    target.check(JPEG)
