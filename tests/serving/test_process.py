"""The service as a process: `python -m serving` with real sockets and real signals."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import tiny
from tests.pictures import encode, scene
from tests.processes import service
from tests.tiny import ROOT

Environment = Callable[..., dict[str, str]]
JPEG = encode(scene())


def test_sigterm_under_load_loses_nothing(model: Path, environment: Environment):
    """Readiness turns to 503 while requests are still answered; each one sent gets 200; exit 0."""
    with service(environment(MODEL=str(model), SERVING_DRAIN_GRACE_SECONDS="1")) as process:
        process.wait_for("ready")
        stop, statuses = threading.Event(), []

        def caller() -> None:
            with httpx.Client(base_url=process.url, timeout=20) as client:
                while not stop.is_set():
                    statuses.append(client.post("/predict", content=JPEG).status_code)

        with ThreadPoolExecutor(8) as pool:
            callers = [pool.submit(caller) for _ in range(8)]
            time.sleep(1)
            process.popen.send_signal(signal.SIGTERM)
            process.wait_for("draining")
            assert httpx.get(process.url + "/health").status_code == 503
            answered = len(statuses)
            time.sleep(0.4)
            assert len(statuses) > answered, "requests within the grace period are still answered"
            stop.set()
            for done in callers:
                done.result()
        assert process.popen.wait(30) == 0
        assert set(statuses) == {200}
        process._reader.join(10)
        assert process.lines[-1]["event"] == "stopped"
        assert process.lines[-1]["drained"] is True


def test_a_reload_under_load_loses_nothing(model: Path, tmp_path: Path, environment: Environment):
    """SIGHUP: the new file answers, every request in between got 200; a damaged file changes nothing."""
    path = tmp_path / "model.pt"
    path.write_bytes(model.read_bytes())
    with service(environment(MODEL=str(path))) as process:
        process.wait_for("ready")
        stop, statuses = threading.Event(), []

        def caller() -> None:
            with httpx.Client(base_url=process.url, timeout=20) as client:
                while not stop.is_set():
                    statuses.append(client.post("/predict", content=JPEG).status_code)

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(caller) for _ in range(4)]
            tiny.write_artifact(path, seed=2)
            process.popen.send_signal(signal.SIGHUP)
            reloaded = process.wait_for("reloaded")
            path.write_bytes(b"damaged")
            process.popen.send_signal(signal.SIGHUP)
            process.wait_for("reload failed")
            served = httpx.get(process.url + "/health").json()["model"]["sha256"]
            stop.set()
            for done in callers:
                done.result()
        assert served == reloaded["sha256"] != process.wait_for("ready")["sha256"]
        assert set(statuses) == {200}
        assert process.stop() == 0


def test_a_second_signal_stops_at_once(model: Path, environment: Environment):
    """Even within a grace period of a minute."""
    with service(environment(MODEL=str(model), SERVING_DRAIN_GRACE_SECONDS="60")) as process:
        process.wait_for("ready")
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        process.popen.wait(20)
        assert time.monotonic() - began < 15


def test_ctrl_c_is_a_clean_shutdown(model: Path, environment: Environment):
    """No traceback, exit 0."""
    with service(environment(MODEL=str(model), SERVING_DRAIN_GRACE_SECONDS="0")) as process:
        process.wait_for("ready")
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(30) == 0


def test_a_port_in_use_is_reported_before_anything_is_loaded(model: Path, environment: Environment):
    """Exit 1 with the address, the cause and the next step."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "serving"],
            cwd=ROOT,
            env=environment(MODEL=str(model), PORT=str(port)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port} is in use. Choose another port with PORT=" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no model at"), (b"damaged", "neither a complete TorchScript")]
)
def test_without_a_complete_model_it_exits_with_the_reason(
    content: bytes | None, words: str, tmp_path: Path, environment: Environment
):
    """Exit 1, and the log names the cause."""
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with service(environment(MODEL=str(path))) as process:
        assert process.popen.wait(60) == 1
        assert words in process.wait_for("failed")["reason"]


def test_a_wrong_setting_exits_with_2_and_its_name(environment: Environment):
    """Before anything is loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "serving"],
        cwd=ROOT,
        env=environment(SERVING_WORKER="2"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "SERVING_WORKER is not a setting of this service. Did you mean SERVING_WORKERS?" in done.stderr


def slowly(url: str, pause_seconds: float, parts: int) -> bytes:
    """Send a photo in parts, with pauses in between; return the answer's bytes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = (
            f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(JPEG)}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode())
        size = -(-len(JPEG) // parts)
        try:
            for start in range(0, len(JPEG), size):
                time.sleep(pause_seconds)
                connection.sendall(JPEG[start : start + size])
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


@pytest.mark.slow
def test_a_slow_upload_has_its_own_limit(model: Path, environment: Environment):
    """An upload may take longer than the answer's deadline; beyond its own limit it gets 408."""
    options = {"SERVING_DEADLINE_SECONDS": "0.5", "SERVING_UPLOAD_SECONDS": "2"}
    with service(environment(MODEL=str(model), **options)) as process:
        process.wait_for("ready")
        assert slowly(process.url, 0.3, 4).startswith(b"HTTP/1.1 200")
        refused = slowly(process.url, 1.5, 3)
        assert refused.startswith(b"HTTP/1.1 408")
        assert b"/problems/upload-timeout" in refused
        assert process.stop() == 0


@pytest.mark.slow
def test_the_event_loop_is_free_while_a_photo_is_computed(model: Path, environment: Environment):
    """Liveness answers promptly while every worker decodes large photos."""
    large = encode(scene(6000, 5000), "PNG")
    options = {"SERVING_WORKERS": "1", "SERVING_DEADLINE_SECONDS": "60"}
    with service(environment(MODEL=str(model), **options)) as process, ThreadPoolExecutor(4) as pool:
        process.wait_for("ready")
        slow = [
            pool.submit(httpx.post, process.url + "/predict", content=large, timeout=60) for _ in range(4)
        ]
        times = []
        with httpx.Client(base_url=process.url) as client:
            while not all(answer.done() for answer in slow):
                began = time.perf_counter()
                client.get("/health/live")
                times.append(time.perf_counter() - began)
        decode = [
            float(answer.result().headers["server-timing"].split("decode;dur=")[1].split(",")[0])
            for answer in slow
        ]
        assert all(answer.result().status_code == 200 for answer in slow)
        assert sorted(times)[len(times) // 2] * 1000 < min(decode) / 4
        assert process.stop() == 0


def test_an_idle_connection_lives_as_long_as_the_setting_says(model: Path, environment: Environment):
    """A proxy that closes its side a little earlier then never sends into a closed one."""
    with service(environment(MODEL=str(model), SERVING_KEEP_ALIVE_SECONDS="2")) as process:
        process.wait_for("ready")
        address = process.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = connection.recv(65536)
            began = time.monotonic()
            while more := connection.recv(65536):
                answer += more
            assert answer.startswith(b"HTTP/1.1 200")
            assert 1.5 < time.monotonic() - began < 8
