"""Nobody takes the log: the service answers as if somebody did, counts the lines, and stops in time."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.pictures import encode, scene
from tests.robustness.conftest import SCALE
from tests.tiny import ROOT

pytestmark = pytest.mark.robust

JPEG = encode(scene())
REQUESTS = int(2500 * SCALE)
Environment = Callable[..., dict[str, str]]


@contextmanager
def serving(
    environment: dict[str, str], stdout: object, stderr: object
) -> Iterator[tuple[str, subprocess.Popen]]:
    """A ready service whose log goes to `stdout`, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serving"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment | {"PORT": str(port)}, stdout=stdout, stderr=stderr
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            assert process.poll() is None
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url, process
    finally:
        process.kill()
        process.wait(10)


def ask(url: str, count: int, content: bytes = JPEG) -> tuple[list[int], float]:
    """The statuses of some requests, one after the other, and the slowest one's time in seconds."""
    statuses, slowest = [], 0.0
    with httpx.Client(base_url=url, timeout=20) as client:
        for _ in range(count):
            began = time.monotonic()
            statuses.append(client.post("/predict", content=content).status_code)
            slowest = max(slowest, time.monotonic() - began)
    return statuses, slowest


def dropped(url: str) -> float:
    """Lines of the log that were lost."""
    text = httpx.get(f"{url}/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("classifier_log_lines_dropped_total ")]
    return float(line.split()[1])


def stops(process: subprocess.Popen) -> None:
    """SIGTERM ends the process with 0, within the grace period and little more."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("way", ["full pipe", "ended reader", "full disk"])
def test_nobody_takes_the_log(way: str, model: Path, environment: Environment):
    """Every answer is 200 and none is late; the lines are counted; SIGTERM ends the process with 0."""
    reader, writer = os.pipe()
    log = os.open("/dev/full", os.O_WRONLY) if way == "full disk" else writer
    if way == "ended reader":
        os.close(reader)
    with serving(environment(MODEL=str(model), SERVING_LOG_LEVEL="info"), log, subprocess.DEVNULL) as (
        url,
        process,
    ):
        statuses, slowest = ask(url, REQUESTS)
        assert set(statuses) == {200}
        assert slowest < 1
        if way != "full pipe":  # of a full pipe, the queue holds these lines
            assert dropped(url) > REQUESTS
        stops(process)


def test_the_log_resumes_when_it_is_read_again(model: Path, environment: Environment):
    """Beyond the queue's bound lines are lost; the reader then learns how many, in one line."""
    reader, writer = os.pipe()
    with serving(environment(MODEL=str(model)), writer, subprocess.DEVNULL) as (url, process):
        os.close(writer)
        with httpx.Client(base_url=url) as client:
            while dropped(url) == 0:
                for _ in range(2000):  # refusals are the quickest lines to make
                    assert client.post("/predict", content=b"").status_code == 400
        taken = b""
        while select.select([reader], [], [], 1)[0]:
            taken += os.read(reader, 1 << 20)
        ask(url, 1)
        process.send_signal(signal.SIGTERM)
        while more := os.read(reader, 1 << 20):
            taken += more
        assert process.wait(20) == 0
    os.close(reader)
    lines = [json.loads(line) for line in taken.splitlines()]
    reports = [line["lines"] for line in lines if line["event"] == "log lines dropped"]
    assert sum(reports) > 0
    assert [line["event"] for line in lines[-3:]] == ["predicted", "draining", "stopped"]


def test_a_full_standard_error_delays_no_answer(model: Path, environment: Environment):
    """A TIFF decoder reports corrupt data there, while it holds a worker."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(65536))
    except BlockingIOError:
        os.set_blocking(writer, True)
    tiff = bytearray(encode(scene(400, 300), "TIFF", compression="tiff_lzw"))
    tiff[2000:2400] = bytes(400)
    with serving(environment(MODEL=str(model)), subprocess.DEVNULL, writer) as (url, process):
        statuses, slowest = ask(url, 200, bytes(tiff))
        assert set(statuses) <= {200, 422}
        assert slowest < 1
        stops(process)
    os.close(reader)
    os.close(writer)
