"""haproxy's socket, tested on a stand-in and, if it is installed, on the real haproxy."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from host.containers import PORTS
from host.errors import RefusedError
from host.proxy import Proxy
from tests.deploy.haproxy import Haproxy
from tests.deploy.stand_ins import Engine, Image, free_port
from tests.tiny import ROOT

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture(params=["a stand-in", HAPROXY] if HAPROXY else ["a stand-in"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy with a service in each slot; the real haproxy, if installed, keeps the stand-in honest."""
    for slot in PORTS:
        monkeypatch.setitem(PORTS, slot, free_port())
    engine = Engine()
    engine.images["x"] = Image("x")
    for slot, port in PORTS.items():
        engine.run(["engine", "run", "--name", slot, "--publish", f"h:{port}:8000", "DEPLOYMENT=", "x"])
    made = Proxy(tmp_path, "http://127.0.0.1")
    made.prepare()
    with Haproxy(engine, tmp_path).serve() if request.param == "a stand-in" else real_haproxy(tmp_path):
        yield made
    for container in engine.containers.values():
        container.stop()


@contextmanager
def real_haproxy(folder: Path) -> Iterator[None]:
    """Run it with the project's configuration, and wait for its socket."""
    text = (ROOT / "deploy/proxy/haproxy.cfg").read_text()
    for slot, fixed in (("blue", "8001"), ("green", "8002")):
        text = text.replace(f"127.0.0.1:{fixed}", f"127.0.0.1:{PORTS[slot]}")
    (folder / "haproxy.cfg").write_text(text)
    (folder / "port").write_text(str(free_port()))
    environment = os.environ | {"STATE": str(folder), "PORT": (folder / "port").read_text()}
    with subprocess.Popen([HAPROXY, "-f", str(folder / "haproxy.cfg")], env=environment) as running:
        deadline = time.monotonic() + 10
        while not (folder / "haproxy.sock").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield
        finally:
            running.terminate()


def test_a_switch_holds_now_and_after_a_restart(proxy: Proxy):
    """It changes the map in memory and the file that a restart reads."""
    assert proxy.active() == "blue"
    proxy.switch("green")
    assert proxy.active() == "green"
    assert (proxy._map).read_text() == "active green\n"


def test_a_slot_is_closed_and_opened_in_both_backends(proxy: Proxy):
    """As the active server and as the backup of the other."""
    proxy.close("green")
    assert [row["status"] for row in proxy._rows("green")] == ["MAINT", "MAINT"]
    proxy.open("green")
    assert [row["status"][:2] for row in proxy._rows("green")] == ["UP", "UP"]
    assert [row["pxname"] for row in proxy._rows("green")] == ["blue", "green"]
    assert proxy.open_requests("green") == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("get map /of/another/folder active", "Unknown map identifier"),
        ("set map /of/another/folder active blue", "Unknown map identifier"),
        ("set server blue/red state ready", "No such server."),
        ("make coffee", "Unknown command"),
    ],
)
def test_a_rejection_by_haproxy_is_reported_in_its_words(proxy: Proxy, command: str, words: str):
    """For example, by a haproxy that runs with another folder."""
    with pytest.raises(RefusedError, match=f"haproxy rejected '{command}': {words}") as raised:
        proxy.ask(command)
    assert "Does it run with proxy/haproxy.cfg and STATE=" in str(raised.value)


def test_a_missing_haproxy_is_reported_with_how_to_start_it(tmp_path: Path):
    """The command contains the folder."""
    with pytest.raises(RefusedError, match=r"haproxy does not answer at .* Start it with: ") as raised:
        Proxy(tmp_path, "http://127.0.0.1").active()
    assert str(raised.value).endswith(f"STATE={tmp_path} PORT=80 haproxy -f proxy/haproxy.cfg")


def test_the_ports_of_the_slots_are_those_in_haproxy_s_configuration():
    """Each slot is a server in both backends: the main one in its own, the backup in the other."""
    text = (ROOT / "deploy/proxy/haproxy.cfg").read_text()
    for slot, port in (("blue", 8001), ("green", 8002)):
        assert PORTS[slot] == port
        assert text.count(f"server {slot} 127.0.0.1:{port}") == 2


@pytest.mark.slow
@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_unfinished_heads_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """More of them than haproxy has connections: another caller is answered within seconds."""
    for slot in PORTS:
        monkeypatch.setitem(PORTS, slot, free_port())
    engine = Engine()
    engine.images["x"] = Image("x")
    engine.run(
        ["engine", "run", "--name", "blue", "--publish", f"h:{PORTS['blue']}:8000", "DEPLOYMENT=", "x"]
    )
    Proxy(tmp_path, "http://127.0.0.1").prepare()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    waiting = []
    try:
        with real_haproxy(tmp_path):
            address = "127.0.0.1", int((tmp_path / "port").read_text())
            for _ in range(2050):
                waiting.append(socket.create_connection(address))
                waiting[-1].sendall(b"GET / HTTP/1.1\r\nX")
            began = time.monotonic()
            answer = httpx.get(f"http://{address[0]}:{address[1]}/health", timeout=20)
            assert answer.status_code == 200
            assert time.monotonic() - began < 8
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for connection in waiting:
            connection.close()
        for container in engine.containers.values():
            container.stop()
