"""Attackers for `test_attacks`: each is a process of its own, with the lowest priority, until it is ended."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
from PIL import Image

from tests import hostile
from tests.pictures import encode, scene

_PAUSE_SECONDS = 0.05
_HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
_JSON = b"Content-Type: application/json\r\n"
_BINARY = b"Inference-Header-Content-Length: 256\r\n"
_MOST_PHOTOS = 16
_MOST_BYTES = 19_000_000
"""Of all the photos of a body, which is then just below the limit."""


class Attacker:
    """Connections to one service."""

    def __init__(self, url: str) -> None:
        parts, self._url = urlsplit(url), url
        self._address = parts.hostname, parts.port

    @contextlib.contextmanager
    def connected(self, timeout_seconds: float = 10) -> Iterator[socket.socket]:
        """A connection; what goes wrong on it is expected."""
        with contextlib.suppress(OSError), socket.create_connection(self._address, timeout_seconds) as one:
            yield one

    def post(self, data: bytes, path: bytes = b"/predict", fields: bytes = b"") -> None:
        """Send a body and read the answer."""
        head = (_HEAD % len(data)).replace(b"/predict", path).replace(b"Host: x\r\n", b"Host: x\r\n" + fields)
        with self.connected(60) as connection:
            connection.sendall(head + data)
            connection.recv(65536)

    def photos(self, *photos: bytes, path: bytes = b"/predict", callers: int = 3) -> None:
        """Send photos again and again, by a few callers who pause for a moment after each answer.

        Without a pause they would be a flood of cheap refusals, which is what `make bench` measures.
        """

        def caller(number: int) -> None:
            while True:
                self.post(photos[number % len(photos)], path)
                number += 1
                time.sleep(_PAUSE_SECONDS)

        together(caller, callers)

    def held_uploads(self) -> None:
        """Sixty uploads that hold 19 of 20 MB each."""
        part = bytes(19_000_000)

        def caller(_: int) -> None:
            while True:
                with self.connected() as connection:
                    connection.sendall(_HEAD % 20_000_000 + part)
                    connection.recv(1)
                time.sleep(0.1)

        together(caller, 60)

    def lists(self) -> None:
        """Sixteen callers, with lists in JSON and tensors in binary, each of one photo as often as can be."""
        model = httpx.get(f"{self._url}/health").json()["model"]["name"]
        infer = f"/v2/models/{model}/infer".encode()
        requests = [
            (_listed(bytes(14_000_000)), b"/predict", _JSON),
            (_tensor(bytes(1_100_000)), infer, _BINARY),
            (_listed(largest_admitted()[-1]), b"/predict", _JSON),
        ]

        def caller(number: int) -> None:
            while True:
                self.post(*requests[number % len(requests)])
                number += 1
                time.sleep(1)

        together(caller, 16)

    def heads(self) -> None:
        """Headers without end, and addresses of megabytes."""
        field = b"X: " + b"a" * 8000 + b"\r\n"

        def caller(number: int) -> None:
            while True:
                with self.connected() as connection:
                    if number % 2:
                        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + field * 4000)
                    else:
                        connection.sendall(b"GET /" + b"a" * 60_000_000)
                    connection.recv(65536)

        together(caller, 4)

    def half_heads(self) -> None:
        """Far more unfinished heads than connections, some of them silent, some in a trickle."""
        waiting: list[socket.socket] = []
        while True:
            with contextlib.suppress(OSError):
                waiting.append(socket.create_connection(self._address, 10))
                if len(waiting) % 3:
                    waiting[-1].sendall(b"GET / HTTP/1.1\r\nX")
            for connection in waiting[::50]:
                with contextlib.suppress(OSError):
                    connection.sendall(b"a")
            if len(waiting) > 1000:
                waiting.pop(0).close()
            time.sleep(0.005)

    def unread(self) -> None:
        """Pipelined requests whose answers nobody reads."""
        requests = b"GET /schema/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100

        def caller(_: int) -> None:
            while True:
                with self.connected() as connection:
                    connection.settimeout(5)
                    for _ in range(1000):
                        connection.sendall(requests)
                time.sleep(0.2)

        together(caller, 8)


def _listed(photo: bytes) -> bytes:
    one = b'{"b64":"%s"}' % base64.b64encode(photo)
    return b'{"instances":[%s]}' % b",".join([one] * _times(one))


def _tensor(photo: bytes) -> bytes:
    one = struct.pack("<I", len(photo)) + photo
    size = {"binary_data_size": _times(one) * len(one)}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [_times(one)], "parameters": size}
    return json.dumps({"inputs": [tensor]}).encode().ljust(256) + one * _times(one)


def _times(one: bytes) -> int:
    return max(1, min(_MOST_PHOTOS, _MOST_BYTES // len(one)))


def together(caller: Callable[[int], None], count: int) -> None:
    """Run callers at the same time, for ever."""
    for number in range(count):
        threading.Thread(target=caller, args=(number,), daemon=True).start()
    threading.Event().wait()


def largest_admitted() -> list[bytes]:
    """The costliest photo of each format that the limits accept."""
    pictures = {
        "PNG": (Image.new("RGB", (7000, 6000)), {}),
        "WEBP": (scene(80, 60).resize((4000, 3000)), {"method": 0}),
        "TIFF": (Image.new("L", (7000, 7000)), {"compression": "tiff_lzw"}),
        "GIF": (Image.new("P", (7000, 7000)), {}),
        "AVIF": (scene(80, 60).resize((4000, 3000)), {"speed": 10}),
        "JPEG": (scene(80, 60).resize((5600, 4200)), {"progressive": True, "subsampling": 0}),
    }
    return [encode(picture, form, **options) for form, (picture, options) in pictures.items()]


KINDS: dict[str, Callable[[Attacker], None]] = {
    "JPEGs of 4,000 scans": lambda one: one.photos(hostile.jpeg_of_many_scans()),
    "progressive CMYK JPEGs": lambda one: one.photos(hostile.jpeg_progressive_cmyk()),
    "the largest photos that are accepted": lambda one: one.photos(*largest_admitted(), callers=6),
    "60 uploads that hold 19 MB": lambda one: one.held_uploads(),
    "heads of megabytes": lambda one: one.heads(),
    "unfinished heads": lambda one: one.half_heads(),
    "answers that nobody reads": lambda one: one.unread(),
    "lists and tensors of megabytes": lambda one: one.lists(),
    "heat maps of large photos": lambda one: one.photos(*largest_admitted(), path=b"/explain", callers=6),
}


def main(kind: str, url: str) -> None:
    """Attack until ended."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    KINDS[kind](Attacker(url))


if __name__ == "__main__":
    main(*sys.argv[1:])
