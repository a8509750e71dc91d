"""Callers who send pictures to the service and report what was right, truthfully or not."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from rehearsal.kept import Answered
from rehearsal.machine import URL
from rehearsal.worlds import Picture

KEY: Final = "rehearsal"
_AT_ONCE: Final = 3


def get(path: str, body: bytes | None = None) -> bytes:
    """What the service answers, to a `body` if there is one; an error is the rehearsal's end."""
    request = urllib.request.Request(f"{URL}{path}", body, {"X-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=20) as response:
        return bytes(response.read())


def ask(path: str, body: bytes | None = None) -> dict[str, Any]:
    """The JSON that the service answers."""
    answer: dict[str, Any] = json.loads(get(path, body))
    return answer


def send(pictures: Sequence[Picture]) -> list[Answered]:
    """Send each picture once, some at the same time; return the answers in order."""
    return [
        Answered(one, answer["prediction"]) for one, answer in zip(pictures, _predict(pictures), strict=True)
    ]


def send_and_lie(pictures: Sequence[Picture], other: dict[str, str]) -> None:
    """Send each picture, and report the `other` label than the true one as what was right."""
    for one, answer in zip(pictures, _predict(pictures), strict=True):
        lie = {"request_id": answer["request_id"], "label": other[one.label]}
        ask("/feedback", json.dumps(lie).encode())


def _predict(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda one: ask("/predict", one.data), pictures))
