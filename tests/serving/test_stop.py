"""The stop: nothing that callers have sent is lost, and it ends in time, whatever hangs."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.pictures import encode, scene
from tests.processes import Process, service
from tests.tiny import ROOT

Environment = Callable[..., dict[str, str]]
JPEG = encode(scene())
SCHEDULING_SECONDS = 1.5
"""What a busy machine may add to a stop, which itself ends a little before its time."""


def pausing_caller(
    url: str, stop: threading.Event, counts: Counter[str], longest_pause_seconds: float
) -> None:
    """Keep one connection, pause between requests, and go on until nobody listens any more."""
    chance = random.Random()
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            try:
                counts[str(client.post("/predict", content=JPEG).status_code)] += 1
            except httpx.ConnectError:
                return  # nobody listens: nothing was sent
            except httpx.HTTPError as error:
                counts[type(error).__name__] += 1
                return
            stop.wait(chance.uniform(0, longest_pause_seconds))


def test_callers_that_pause_lose_nothing(model: Path, environment: Environment):
    """They go on past the close of the listener, each on its own connection, as a pool of any client does."""
    with service(environment(MODEL=str(model), SERVING_DRAIN_GRACE_SECONDS="0.2")) as process:
        process.wait_for("ready")
        stop, counts = threading.Event(), Counter[str]()
        with ThreadPoolExecutor(16) as pool:
            for _ in range(16):
                pool.submit(pausing_caller, process.url, stop, counts, 0.5)
            time.sleep(1)
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait(30) == 0
            stop.set()
        assert counts.keys() == {"200"}
        assert counts["200"] > 50


def test_every_answer_closes_its_connection_while_the_service_drains(model: Path, environment: Environment):
    """So that the caller's next request goes elsewhere."""
    with service(environment(MODEL=str(model), SERVING_DRAIN_GRACE_SECONDS="1")) as process:
        process.wait_for("ready")
        with httpx.Client(base_url=process.url) as client:
            assert "connection" not in client.get("/health/live").headers
            process.popen.send_signal(signal.SIGTERM)
            process.wait_for("draining")
            assert client.get("/health/live").headers["connection"] == "close"
        assert process.popen.wait(20) == 0


@contextlib.contextmanager
def hanging(process: Process, *kinds: str) -> Iterator[None]:
    """Callers that do not let go: an idle one, a slow upload, a half head, and one that never reads."""
    host, port = process.url.removeprefix("http://").split(":")
    sent = {
        "idle": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "upload": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc",
        "head": b"GET /health HTTP/1.1\r\nHo",
        "unread": b"GET /schema/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000,
        "silent": b"",
    }
    connections = []
    for kind in kinds:
        connection = socket.create_connection((host, int(port)))
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.send(sent[kind])
        connections.append(connection)
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", [["idle", "silent"], ["upload"], ["head"], ["unread"], ["idle", "upload", "head"]]
)
def test_the_stop_ends_in_time_whoever_holds_on(kinds: list[str], model: Path, environment: Environment):
    """One deadline for all of it, from the signal to the exit."""
    options = {"SERVING_DRAIN_TIMEOUT_SECONDS": "3", "SERVING_DRAIN_GRACE_SECONDS": "0.1"}
    with service(environment(MODEL=str(model), **options)) as process:
        process.wait_for("ready")
        with hanging(process, *kinds):
            time.sleep(0.2)
            began = time.monotonic()
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait(20) in (0, 1)
            assert time.monotonic() - began < 3 + SCHEDULING_SECONDS
        process._reader.join(10)
        assert process.lines[-1]["event"] == "stopped"


STUCK = """
import sys, threading
from serving.contract import preprocess
from serving.runtime import handler
whole = handler.preprocess
def hang(data, *rest):
    if data.endswith(b"hang"):
        threading.Event().wait()
    return whole(data, *rest)
handler.preprocess = hang
from serving.__main__ import main
sys.exit(main([]))
"""


def test_the_stop_ends_in_time_with_a_worker_that_never_returns(model: Path, environment: Environment):
    """And with a slow upload besides; before, another photo is answered although a worker hangs."""
    options = {
        "SERVING_DRAIN_TIMEOUT_SECONDS": "3",
        "SERVING_WORKERS": "1",
        "SERVING_DEADLINE_SECONDS": "0.5",
        "PORT": "0",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        [sys.executable, "-c", STUCK],
        env=environment(MODEL=str(model), **options),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        process = Process.__new__(Process)
        process.popen, process.lines, process.errors = popen, [], []
        process._reader = threading.Thread(target=process._read, daemon=True)
        process._reader.start()
        process.wait_for("ready")
        assert httpx.post(process.url + "/predict", content=JPEG + b"hang", timeout=10).status_code == 504
        deadline = time.monotonic() + 10
        while httpx.post(process.url + "/predict", content=JPEG, timeout=10).status_code != 200:
            assert time.monotonic() < deadline, "the worker is replaced"
        assert httpx.get(process.url + "/health/ready").status_code == 200
        with hanging(process, "upload", "idle"):
            began = time.monotonic()
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(20) in (0, 1)
            assert time.monotonic() - began < 3 + SCHEDULING_SECONDS
        process._reader.join(10)


def test_a_second_signal_ends_at_once_and_says_so(model: Path, environment: Environment):
    """Exit status 128 and the signal's number, a line of log, and no traceback."""
    with service(environment(MODEL=str(model), SERVING_DRAIN_GRACE_SECONDS="20")) as process:
        process.wait_for("ready")
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(10) == 128 + signal.SIGTERM
        assert process.wait_for("stopped at once")["reason"] == "a second signal"
        assert not any("Traceback" in line for line in process.errors)


def in_terminal(model: Path, environment: Environment, *prefix: str) -> tuple[int, int]:
    """Start the service in a terminal of its own; return its process id and the terminal's other end."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup themselves
        command = [*prefix, sys.executable, "-m", "serving"]
        os.execvpe(command[0], command, environment(MODEL=str(model), PORT="0"))  # noqa: S606
    text = b""
    while b'"ready"' not in text:
        text += os.read(terminal, 65536)
    return child, terminal


def test_closing_the_terminal_ends_the_service(model: Path, environment: Environment):
    """It is no reload: nobody could stop it any more, and it would hold the port."""
    child, terminal = in_terminal(model, environment)
    os.close(terminal)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(done[1]) == 0


def test_a_terminal_whose_closing_is_reported_twice_is_no_second_signal(
    model: Path, environment: Environment
):
    """The shell and the system each send a hang-up: the service still drains."""
    child, terminal = in_terminal(model, environment)
    os.close(terminal)
    for _ in range(3):
        time.sleep(0.1)
        os.kill(child, signal.SIGHUP)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_hang_up_from_elsewhere_reloads_in_a_terminal_too(model: Path, environment: Environment):
    """As `kill -HUP` from another one."""
    child, terminal = in_terminal(model, environment)
    os.kill(child, signal.SIGHUP)
    text = b""
    while b'"reloaded"' not in text:
        text += os.read(terminal, 65536)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
