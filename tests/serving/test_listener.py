"""The socket that callers connect to: a path, one of systemd's, and at a stop."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serving.http import listener
from tests import processes
from tests.pictures import encode, scene
from tests.tiny import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_a_listener_that_takes_no_more_keeps_those_that_have_connected():
    """All of them can be accepted and read; a newer one gets no connection that would be reset."""
    bound = listener.listen("127.0.0.1", 0)
    assert bound is not None
    with bound:
        bound.listen(16)
        address = bound.getsockname()
        before = [socket.create_connection(address, timeout=5) for _ in range(8)]
        listener.take_no_more(bound)
        for caller in before:
            caller.sendall(b"sent")
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.2)
        for caller in before:
            accepted, _ = bound.accept()
            with accepted, caller:
                assert accepted.recv(10) == b"sent"


def test_a_unix_socket_is_served_and_removed(
    model: Path, tmp_path: Path, environment: Callable[..., dict[str, str]]
):
    """One that a killed process left is replaced; one that is in use is not."""
    path = tmp_path / "s.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    settings = environment(MODEL=str(model), HOST=f"unix:{path}")
    with processes.service(settings) as process:
        process.wait_for("ready")
        assert process.url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/health/ready").status_code == 200
            assert client.post("http://localhost/predict", content=encode(scene())).status_code == 200
        command = [sys.executable, "-m", "serving", "healthcheck"]
        assert subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode == 0
        second = subprocess.run(
            [sys.executable, "-m", "serving"],
            cwd=ROOT,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert f"{path} is not available: another process listens there" in second.stderr
        assert process.stop() == 0
    assert not path.exists()


LIKE_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "serving"])
"""


def test_an_inherited_socket_keeps_callers_waiting_through_a_restart(
    model: Path, environment: Callable[..., dict[str, str]]
):
    """It is not closed in between: who connects while no service runs is answered by the next one."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(16)
        bound.set_inheritable(True)
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"

        def start() -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", LIKE_SYSTEMD, str(bound.fileno())]
            return subprocess.Popen(
                command, cwd=ROOT, env=environment(MODEL=str(model)), pass_fds=[bound.fileno()],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

        for _ in range(2):
            with start() as running:
                try:
                    assert httpx.get(f"{address}/health/live", timeout=60).status_code == 200
                    running.terminate()
                    assert running.wait(30) == 0
                finally:
                    running.kill()
