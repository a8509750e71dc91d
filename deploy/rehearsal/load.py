"""Steady load on the public address, and the count of its outcomes."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Self

from rehearsal.machine import PORTS

CALLERS, RATE_PER_CALLER = 4, 5


class Load:
    """Callers with persistent connections at a steady rate; counts requests by their outcome."""

    def __init__(self, *photos: bytes, key: str = "") -> None:
        """Each caller sends the photos in turn, with the API key if there is one."""
        self._photos, self._stop, self._lock = photos, threading.Event(), threading.Lock()
        self._headers = {"Content-Type": "image/jpeg"} | ({"X-API-Key": key} if key else {})
        self.seen: list[tuple[float, str]] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORTS["proxy"], timeout=20)
        due, photos = time.monotonic(), itertools.cycle(self._photos)
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / RATE_PER_CALLER, time.monotonic() - 1)
            began = time.time()
            try:
                connection.request("POST", "/predict", next(photos), self._headers)
                response = connection.getresponse()
                text = response.read()
                ok = response.status == http.HTTPStatus.OK
                outcome = (
                    "model " + json.loads(text)["model"]["version"] if ok else f"status {response.status}"
                )
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            with self._lock:
                self.seen.append((began, outcome))

    @contextlib.contextmanager
    def during(self) -> Iterator[Counter[str]]:
        """Count the outcomes from here to two seconds after the end of the block."""
        began, counted = time.time(), Counter[str]()
        yield counted
        time.sleep(2)
        with self._lock:
            counted.update(outcome for at, outcome in self.seen if at >= began)


def failures(counted: Counter[str]) -> int:
    """Return how many requests no model answered."""
    return sum(count for outcome, count in counted.items() if not outcome.startswith("model "))


def show(counted: Counter[str]) -> str:
    """Format the counts."""
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items())) or "none"
