"""Attacks while others call: they lose nothing, hardly wait longer, and memory stays below its bound.

The callers send a photo each at fixed times, half as often as the service can answer, and their latency
counts from the time at which they should have sent it, so that a service that holds them up cannot hide it.
The attackers run at the lowest priority: what is measured is the service, not the processor that they need.
`python -m tests.robustness.memory` draws the memory of a whole run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import httpx
import numpy as np
import pytest

from tests.pictures import encode, scene
from tests.robustness.attackers import KINDS
from tests.robustness.conftest import SCALE, Target
from tests.tiny import ROOT

pytestmark = pytest.mark.robust

PHOTO = encode(scene(500, 375), quality=90)
SECONDS = 6.0 * SCALE
QUIET_SECONDS = min(SECONDS, 15.0)
MOST_MB = 1030
"""Of memory that the system cannot take back; with about 270 MB of mapped libraries, 1,300 MB."""
LONG_FORM = 3
SLOWER = 3
"""How many times the quiet p99 the p99 during an attack may be."""


@dataclass
class Calls:
    """What callers met in a phase."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def p(self, percent: float) -> float:
        """A percentile of the latency, in milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1000

    @property
    def lost(self) -> int:
        """Calls that ended in anything but 200."""
        return self.outcomes.total() - self.outcomes["200"]


async def _call(client: httpx.AsyncClient, due: float, calls: Calls) -> None:
    await asyncio.sleep(due - time.monotonic())
    try:
        outcome = str((await client.post("/predict", content=PHOTO)).status_code)
    except httpx.HTTPError as error:
        outcome = type(error).__name__
    calls.outcomes[outcome] += 1
    calls.seconds.append(time.monotonic() - due)


async def _calls(url: str, per_second: float, seconds: float) -> Calls:
    calls, began = Calls(), time.monotonic() + 0.1
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=64)) as client:
        await asyncio.gather(
            *(_call(client, began + n / per_second, calls) for n in range(int(per_second * seconds)))
        )
    return calls


def calls(url: str, per_second: float, seconds: float) -> Calls:
    """Call at fixed times."""
    return asyncio.run(_calls(url, per_second, seconds))


def capacity(url: str) -> float:
    """Answers per second to four callers that never pause."""
    done, ends = 0, time.monotonic() + 3

    def caller() -> None:
        nonlocal done
        with httpx.Client(base_url=url, timeout=30) as client:
            while time.monotonic() < ends:
                client.post("/predict", content=PHOTO)
                done += 1

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done / 3


class Memory:
    """The resident memory of a service, twenty times a second."""

    def __init__(self, target: Target) -> None:
        self._target, self._done = target, threading.Event()
        self.curve: list[tuple[float, float]] = []
        """Seconds since the epoch, and MB."""
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.curve.append((time.time(), self._target.own_mb()))

    @property
    def peak_mb(self) -> float:
        """The most so far."""
        return max(mb for _, mb in self.curve)


@contextmanager
def attack(kind: str, url: str) -> Iterator[None]:
    """Attack for as long as the block takes."""
    command = [sys.executable, "-m", "tests.robustness.attackers", kind, url]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as running:
        try:
            yield
        finally:
            running.kill()


@pytest.fixture(scope="module")
def rate(target: Target) -> float:
    """Half of what the service can answer."""
    calls(target.url, 20, 2)
    return capacity(target.url) / 2


@dataclass
class Round:
    """Quiet, attack, quiet."""

    quiet: Calls
    during: Calls
    again: Calls
    peak_mb: float

    @property
    def ratio(self) -> float:
        """The p99 during the attack in terms of the larger of the quiet ones."""
        return self.during.p(99) / max(self.quiet.p(99), self.again.p(99))

    def __str__(self) -> str:
        phases = (self.quiet, self.during, self.again)
        return (
            f"lost {self.during.lost} of {self.during.outcomes.total()} {dict(self.during.outcomes)}, "
            f"p50 {' -> '.join(f'{phase.p(50):.0f}' for phase in phases)} ms, "
            f"p99 {' -> '.join(f'{phase.p(99):.0f}' for phase in phases)} ms, peak {self.peak_mb:.0f} MB"
        )


def play(target: Target, rate: float, kind: str) -> Round:
    """One round."""
    quiet = calls(target.url, rate, QUIET_SECONDS)
    with Memory(target) as memory, attack(kind, target.url):
        time.sleep(3)  # the attackers draw their pictures
        during = calls(target.url, rate, SECONDS)
    time.sleep(2)  # what was accepted may be computed until its deadline
    return Round(quiet, during, calls(target.url, rate, QUIET_SECONDS), memory.peak_mb)


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_cost_others_nothing(target: Target, rate: float, kind: str):
    """No call is lost, the p99 is less than three times the quiet one, and memory stays below 1.3 GB.

    The first two are judged in the long form (SCALE=3 and more), on a machine that does nothing else: there,
    an attack that succeeds does so in each of three rounds, and a hold-up of the machine does not.
    """
    harmed = True
    for _ in range(3 if SCALE >= LONG_FORM else 1):
        one = play(target, rate, kind)
        print(f"\nattack: {kind}: {rate:.0f} calls/s for {SECONDS:.0f} s, {one}")
        assert one.peak_mb < MOST_MB
        target.check(PHOTO)
        harmed = one.during.lost > 0 or one.ratio >= SLOWER
        if not harmed:
            break
    assert not harmed or SCALE < LONG_FORM


def test_attacks_all_at_once_stay_within_the_memory(target: Target):
    """The service may refuse, but it lives, and answers again afterwards."""
    with Memory(target) as memory:
        running = [attack(kind, target.url) for kind in KINDS]
        for one in running:
            one.__enter__()
        try:
            during = calls(target.url, 5, max(12, SECONDS))
        finally:
            for one in running:
                one.__exit__(None, None, None)
    print(f"\nattack: all at once: {dict(during.outcomes)}, peak {memory.peak_mb:.0f} MB")
    assert memory.peak_mb < MOST_MB
    time.sleep(3)
    target.check(PHOTO)
