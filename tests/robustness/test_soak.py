"""Sustained load (20 s in CI, half an hour with SCALE=90): every answer right, memory flat."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.pictures import encode, scene
from tests.robustness.conftest import SCALE, Target

pytestmark = pytest.mark.robust

PHOTOS = [encode(scene(400 + 37 * n, 300), form) for n, form in enumerate(("JPEG", "PNG", "WEBP", "JPEG"))]


def test_soak(target: Target):
    """Four callers send photos of several formats and sizes, and one bad file in ten."""
    seconds = 20 * SCALE
    ends = time.monotonic() + seconds
    counts: Counter[int | str] = Counter()
    slowest = [0.0] * 4
    lock = threading.Lock()

    def caller(number: int) -> None:
        with httpx.Client(base_url=target.url, timeout=30) as client:
            turn = number
            while (sent := time.monotonic()) < ends:
                turn += 1
                body = b"no photo" if turn % 10 == 0 else PHOTOS[turn % len(PHOTOS)]
                try:
                    outcome: int | str = client.post("/predict", files={"file": ("x", body)}).status_code
                except httpx.TransportError as error:
                    outcome = f"{error!r} {ends - sent:.0f} s before the end"
                slowest[number] = max(slowest[number], time.monotonic() - sent)
                with lock:
                    counts[outcome] += 1

    levels = []
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(caller, number) for number in range(4)]
        while time.monotonic() < ends:
            time.sleep(seconds / 20)
            levels.append(target.resident_mb())
        for done in callers:
            done.result()
    middle, last = sorted(levels[5:10])[2], sorted(levels[-5:])[2]
    shown = ", ".join(f"{level:.0f}" for level in levels)
    print(f"\nsoak: {seconds:.0f} s, {dict(counts)}, slowest {max(slowest):.2f} s")
    print(f"resident MB every {seconds / 20:.0f} s: {shown}")
    assert set(counts) == {200, 415}
    assert last < 1.05 * middle + 5
