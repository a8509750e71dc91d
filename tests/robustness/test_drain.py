"""SIGTERM again and again under callers that keep their connection and pause: nothing sent is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes import service
from tests.robustness.conftest import SCALE
from tests.serving.test_stop import pausing_caller

pytestmark = pytest.mark.robust

CALLERS = 24
PAUSES_SECONDS = (0.0, 0.1, 0.1, 0.3, 0.5, 1.0)
"""The longest pause of each caller, in turn: from a busy pool to one that is mostly idle."""


def test_drain_loses_nothing(environment: Callable[..., dict[str, str]]):
    """Each caller goes on past the close of the listener, until nobody listens."""
    counts, stops, longest = Counter[str](), max(1, int(SCALE)), 0.0
    for _ in range(stops):
        with service(environment()) as process, ThreadPoolExecutor(CALLERS) as pool:
            process.wait_for("ready")
            stop = threading.Event()
            for number in range(CALLERS):
                pause = PAUSES_SECONDS[number % len(PAUSES_SECONDS)]
                pool.submit(pausing_caller, process.url, stop, counts, pause)
            time.sleep(9)
            began = time.monotonic()
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait(30) == 0
            longest = max(longest, time.monotonic() - began)
            stop.set()
    print(f"\ndrain: {stops} stops, {dict(counts)}, longest {longest:.1f} s")
    assert counts.keys() <= {"200", "503"}, "a refusal under load is an answer; nothing is lost"
    assert counts["200"] > max(500 * stops, 0.95 * counts.total())
