"""Reloads of the model, one after another: they must not fill the memory."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from tests.pictures import encode, scene
from tests.robustness.conftest import SCALE, Target

pytestmark = pytest.mark.robust


def test_reloads_leave_no_memory_behind(target: Target):
    """Twenty reloads of the released model grow resident memory by less than five of its files."""
    photo, count = encode(scene()), max(5, int(20 * SCALE))
    curve = []
    with httpx.Client(base_url=target.url, timeout=30) as client:
        for number in range(count):
            target.child.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 30
            while sum(line["event"] == "reloaded" for line in target.process.lines) <= number:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for _ in range(5):
                assert client.post("/predict", content=photo).status_code == 200
            curve.append(round(target.resident_mb()))
    print(f"\nreload: resident memory in MB after each of {count}: {curve}")
    assert curve[-1] - curve[0] < 75
