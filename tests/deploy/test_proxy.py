"""haproxy's socket, tested on a stand-in and, if it is installed, on the real haproxy."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy import deploy as command
from host.books import PORTS
from host.errors import RefusedError
from host.proxy import Proxy
from tests.deploy.haproxy import Haproxy
from tests.deploy.stand_ins import Engine, Image, free_port, photo
from tests.tiny import ROOT

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with a service in each slot, on free ports."""
    engine = Engine()
    engine.images["x"] = Image("x")
    for slot in PORTS:
        monkeypatch.setitem(PORTS, slot, free_port())
        where = f"h:{PORTS[slot]}:8000"
        engine.run(["engine", "run", "--name", slot, "--publish", where, "--env", "DEPLOYMENT=", "x"])
    yield engine
    for container in engine.containers.values():
        container.stop()


@pytest.fixture(params=["a stand-in", HAPROXY] if HAPROXY else ["a stand-in"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, slots: Engine) -> Iterator[Proxy]:
    """A proxy with a service in each slot; the real haproxy, if installed, keeps the stand-in honest."""
    made = Proxy(tmp_path, "http://127.0.0.1")
    made.prepare()
    with Haproxy(slots, tmp_path).serve() if request.param == "a stand-in" else real_haproxy(tmp_path):
        yield made


def haproxy_configuration(folder: Path) -> Path:
    """Write the project's configuration with the ports of this test; return the file."""
    text = (ROOT / "deploy/proxy/haproxy.cfg").read_text()
    for slot, fixed in (("blue", "8001"), ("green", "8002")):
        text = text.replace(f"127.0.0.1:{fixed}", f"127.0.0.1:{PORTS[slot]}")
    (folder / "haproxy.cfg").write_text(text)
    return folder / "haproxy.cfg"


@contextmanager
def real_haproxy(folder: Path) -> Iterator[None]:
    """Run it with the project's configuration, and wait for its socket."""
    (folder / "port").write_text(str(free_port()))
    environment = os.environ | {"STATE": str(folder), "PORT": (folder / "port").read_text()}
    if (folder / "tls.pem").exists():
        (folder / "tls-port").write_text(str(free_port()))
        environment["TLS_PORT"] = (folder / "tls-port").read_text()
    with subprocess.Popen([HAPROXY, "-f", haproxy_configuration(folder)], env=environment) as running:
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
    assert {row["status"].split()[0] for row in proxy._rows("green")} == {"MAINT"}
    proxy.open("green")
    assert {row["status"].split()[0] for row in proxy._rows("green")} == {"UP"}
    assert [row["pxname"] for row in proxy._rows("green")] == ["blue", "green", "canary"]
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
    """Each slot is a server in three backends: its own, the other's as a backup, and the shared one."""
    text = (ROOT / "deploy/proxy/haproxy.cfg").read_text()
    for slot, port in (("blue", 8001), ("green", 8002)):
        assert PORTS[slot] == port
        assert text.count(f"server {slot} 127.0.0.1:{port}") == 3


@pytest.mark.slow
@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
@pytest.mark.usefixtures("slots")
def test_unfinished_heads_keep_nobody_out(tmp_path: Path):
    """More of them than haproxy has connections: another caller is answered within seconds."""
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


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
@pytest.mark.usefixtures("slots")
def test_a_share_of_the_traffic_goes_to_the_candidate_until_haproxy_restarts(tmp_path: Path):
    """The map in the file keeps the active slot."""
    proxy = Proxy(tmp_path, "http://127.0.0.1")
    proxy.prepare()
    with real_haproxy(tmp_path):
        proxy.share("green", 10)
        assert proxy.active() == "canary"
        assert (tmp_path / "active.map").read_text() == "active blue\n"
        url = f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/health"
        with httpx.Client() as client:
            assert {client.get(url).status_code for _ in range(200)} == {200}
        rows = {row["svname"]: row for row in proxy._rows() if row["pxname"] == "canary"}
        assert 15 <= int(rows["green"]["stot"]) <= 25
        assert int(rows["blue"]["stot"]) + int(rows["green"]["stot"]) == 200


@contextmanager
def killed_with(requests: int, port: int) -> Iterator[None]:
    """Listen until so many requests are inside, and then close everything, as a killed container does."""

    def run() -> None:
        inside = []
        while len(inside) < requests:
            connection, _ = listener.accept()
            connection.settimeout(5)
            if connection.recv(1 << 20).startswith(b"POST"):
                inside.append(connection)
            else:
                connection.close()  # a health check
        listener.close()
        for connection in inside:
            connection.close()

    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(20)


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
@pytest.mark.parametrize("how", ["requests are inside", "it is gone"])
def test_a_request_goes_to_the_other_container_if_one_dies(tmp_path: Path, slots: Engine, how: str):
    """At once, before a health check has noticed, and although the request arrives in two parts."""
    proxy = Proxy(tmp_path, "http://127.0.0.1")
    proxy.prepare()
    body = photo("dog")
    with real_haproxy(tmp_path), contextlib.ExitStack() as stack:
        proxy.switch("green")
        proxy.open("green")
        port = int((tmp_path / "port").read_text())
        callers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(5)
        ]
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        for caller in callers:
            caller.sendall(head.encode())
        slots.containers["green"].stop()
        if how == "requests are inside":
            stack.enter_context(killed_with(5, PORTS["green"]))
        time.sleep(0.05)
        for caller in callers:
            caller.sendall(body)
        assert [caller.recv(1000).split()[1] for caller in callers] == [b"200"] * 5


def certificate(folder: Path, name: str) -> str:
    """Return a self-signed certificate with its key, for localhost."""
    key, path = folder / "key.pem", folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", path]
    subprocess.run(command, check=True, capture_output=True)
    return path.read_text() + "\n" + key.read_text()


@pytest.mark.skipif(
    HAPROXY is None or shutil.which("openssl") is None, reason="haproxy or openssl is missing"
)
@pytest.mark.usefixtures("slots")
def test_tls_is_terminated_with_a_certificate_that_can_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The next certificate is served without a restart; a file without its key is refused."""
    (tmp_path / "given.pem").write_text(certificate(tmp_path, "first"))
    call = ["certificate", str(tmp_path / "given.pem"), "--state", str(tmp_path)]
    Proxy(tmp_path, "", restart_seconds=0).prepare()
    assert command.main(call) == 0
    assert (tmp_path / "tls.pem").stat().st_mode & 0o777 == 0o600
    with real_haproxy(tmp_path):
        port = int((tmp_path / "tls-port").read_text())
        for name in ("first", "second"):
            (tmp_path / "given.pem").write_text(certificate(tmp_path, name))
            assert command.main(call) == 0, capsys.readouterr().err
            served = ssl.get_server_certificate(("127.0.0.1", port))
            assert served.split() == (tmp_path / "certificate.pem").read_text().split()
            trusted = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
            assert httpx.get(f"https://localhost:{port}/health", verify=trusted).status_code == 200
        plain = f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/health"
        assert httpx.get(plain).status_code == 200  # this host itself is not redirected
        (tmp_path / "given.pem").write_text(served)
        assert command.main(call) == 2
        assert "It must hold certificate, chain and key" in capsys.readouterr().err
