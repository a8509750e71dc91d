"""The parts of a deploy, each alone: books, containers, haproxy and the words of their errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host.books import Books, Release
from host.checks import fields, request, wait_for
from host.containers import PORTS, Containers
from host.errors import LockedError, RefusedError, WrongCallError
from host.proxy import Proxy
from tests.deploy.conftest import Host
from tests.deploy.stand_ins import Clock, Engine, Haproxy, Image, free_port, serving
from tests.tiny import ROOT

RELEASE = Release("registry/api@sha256:" + "c" * 64, "api-1", "green", "7", "2026-01-01T00:00:00Z")

# --- books ---


def test_the_books_hold_what_was_saved(tmp_path: Path):
    """Another process reads the same releases and phase."""
    books = Books(tmp_path / "state")
    books.state.active, books.state.phase = RELEASE, "draining"
    books.save()
    read = Books(tmp_path / "state").state
    assert (read.active, read.previous, read.candidate, read.phase) == (RELEASE, None, None, "draining")
    assert read.active.digest == "sha256:" + "c" * 64


def test_a_crash_while_saving_leaves_the_books_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Never half of one state and half of another."""
    books = Books(tmp_path)
    books.state.active = RELEASE
    books.save()
    books.state.active = None

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space"):
            books.save()
    assert Books(tmp_path).state.active == RELEASE


def test_the_journal_has_a_line_an_event(tmp_path: Path):
    """Each with its time, in the order in which they happened."""
    books = Books(tmp_path)
    books.note("deployed", image="a", model="1")
    books.note("refused", image="b", reason="two\nlines")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line.pop("time")[-1] for line in lines] == ["Z", "Z"]
    assert lines == [
        {"event": "deployed", "image": "a", "model": "1"},
        {"event": "refused", "image": "b", "reason": "two\nlines"},
    ]


def test_the_lock_has_one_holder_and_brings_the_latest_state(tmp_path: Path):
    """The second is told who the first is; after the first it reads what that one wrote."""
    first, second = Books(tmp_path), Books(tmp_path)
    with first.locked():
        with pytest.raises(LockedError, match=rf"Another deploy is running here \(process {os.getpid()}\)\."):
            second.locked().__enter__()
        first.state.active = RELEASE
        first.save()
    with second.locked():
        assert second.state.active == RELEASE


def test_a_folder_that_cannot_be_made_is_named_with_the_option(tmp_path: Path):
    """An operator without rights, for one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongCallError, match=r"file/state cannot be made: .* Name another with --state\."):
        Books(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"active": null}', '{"active": {"image": "x"}, "phase": "idle"}']
)
def test_damaged_books_are_named_and_not_guessed_at(tmp_path: Path, text: str):
    """What runs here is not known then, so nothing is begun."""
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(WrongCallError, match=r"state\.json is damaged .* deploy\.state="):
        Books(tmp_path)


# --- checks ---


def test_waiting_ends_with_the_condition_or_with_the_time(clock: Clock):
    """A condition that holds at once costs no time; one that never does costs what was allowed."""
    wait_for(lambda: True, 0, "never said")
    assert clock.seconds == 0
    with pytest.raises(RefusedError, match=r"it is not there after 1\.5 s\."):
        wait_for(lambda: False, 1.5, "it is not there")
    assert clock.seconds == pytest.approx(1.5, abs=0.2)


def test_a_request_has_a_status_or_a_reason():
    """Nobody there, nonsense there, and bytes that are no text: none of them is an exception."""
    assert request(f"http://127.0.0.1:{free_port()}")[0] == 0
    with serving(0, lambda *_: (503, "later")) as port:
        assert request(f"http://127.0.0.1:{port}/") == (503, "later")
    command = [sys.executable, "-c", NONSENSE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        assert request(f"http://127.0.0.1:{port}/") == (0, "this is no HTTP\n")
        assert request(f"http://127.0.0.1:{port}/") == (200, "\ufffd")


NONSENSE = r"""
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    for answer in (b"this is no HTTP\n", b"HTTP/1.0 200 OK\r\n\r\n\xff"):
        with server.accept()[0] as channel:
            channel.recv(65536)
            channel.sendall(answer)
"""


@pytest.mark.parametrize("text", ["", "<html>", "[1]", '"text"', "null"])
def test_what_is_no_object_has_no_fields(text: str):
    """As the page of another server that has the port."""
    assert fields(text) == {}
    assert fields('{"a": 1}') == {"a": 1}


# --- the command line as a whole: faults before anything is begun ---


def test_a_public_address_of_somebody_else_is_no_serving_release(host: Host):
    """Another server on the port answers 200 with a page: the switch is taken back, and said."""
    host.deploy(host.image("first"))
    with serving(0, lambda *_: (200, "<html>It works!</html>")) as port:
        host.url = f"http://127.0.0.1:{port}"
        done = host.call("deploy", host.image("second"))
    assert done.status == 1
    assert f"check 'public' failed: {host.url} does not answer as the new release." in done.err


def test_wrong_calls_are_refused_before_anything_is_begun(host: Host, tmp_path: Path):
    """No photos, or settings that cannot be read: status 2, and no container was started."""
    image = host.image("first")
    host.smoke = tmp_path / "none"
    done = host.call("deploy", image)
    assert (done.status, done.err) == (
        2,
        f"error: {host.smoke} has no photos named for their label, as cat.jpg.\n",
    )
    done = host.call("deploy", image, "--env-file", tmp_path / "missing.env")
    assert done.status == 2
    assert "missing.env cannot be read: No such file or directory. See --env-file." in done.err
    assert host.engine.containers == {}
    assert not (host.state_folder / "state.json").exists()


def test_an_image_that_cannot_be_pulled_is_said_in_the_engine_s_words(host: Host):
    """And nothing was written down."""
    done = host.call("deploy", "registry/none@sha256:" + "d" * 64)
    assert done.status == 1
    assert "'docker pull' failed: Error: No such object: registry/none@sha256:ddd" in done.err
    assert not (host.state_folder / "state.json").exists()


def test_init_writes_what_haproxy_needs_and_status_shows_the_traffic(host: Host):
    """The map names the blue slot, and an existing one is left."""
    assert f"haproxy can start: STATE={host.state_folder} PORT=80 " in host.call("init").out
    active = host.state_folder / "active.map"
    assert active.read_text() == "active blue\n"
    active.write_text("active green\n")
    host.call("init")
    assert active.read_text() == "active green\n"
    image = host.image("first")
    host.deploy(image)
    lines = host.call("status").out
    assert f"active    {image} (blue, model 1, " in lines
    assert "traffic   blue" in lines


# --- containers ---


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `engine` on PATH that notes what it was called with, and answers what `says` holds."""
    script = tmp_path / "bin" / "engine"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >>"$0.calls"\n[ ! -f "$0.$1" ] || . "$0.$1"\nexit 0\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return script


def containers(tmp_path: Path, network: str = "publish", env_file: Path | None = None) -> Containers:
    """As deploy.py makes them."""
    return Containers("engine", network, env_file, "2g", tmp_path / "state")


@pytest.mark.parametrize(
    ("network", "where"),
    [
        ("publish", "--publish 127.0.0.1:8002:8000"),
        ("host", "--network host --env PORT=8002 --env HOST=127.0.0.1"),
    ],
)
def test_a_container_runs_without_rights_within_limits(
    engine: Path, tmp_path: Path, network: str, where: str
):
    """Read-only, no capabilities, a label to find it by, reachable from this machine only."""
    engine.with_name("engine.start").write_text("exit 1")
    containers(tmp_path, network, tmp_path / "service.env").start(RELEASE)
    started = engine.with_name("engine.calls").read_text().splitlines()[-1]
    assert started == (
        "run --detach --name api-1 --read-only --cap-drop ALL --security-opt no-new-privileges "
        f"--pids-limit 256 --restart unless-stopped --label deploy.state={tmp_path / 'state'} --memory 2g "
        f"{where} --env DEPLOYMENT={RELEASE.digest} --env-file {tmp_path / 'service.env'} {RELEASE.image}"
    )


def test_a_present_container_is_started_again(engine: Path, tmp_path: Path):
    """Nothing is created."""
    containers(tmp_path).start(RELEASE)
    assert engine.with_name("engine.calls").read_text() == "start api-1\n"


def test_the_engine_s_answers_are_read(engine: Path, tmp_path: Path):
    """Running or not, how often restarted, what it logged to both streams; an unknown one is not running."""
    ours = containers(tmp_path)
    engine.with_name("engine.inspect").write_text('case "$3" in *Running*) echo true;; *) echo 3;; esac')
    engine.with_name("engine.logs").write_text("echo to stdout; echo to stderr >&2")
    assert ours.running("api-1")
    assert ours.restarts("api-1") == 3
    assert ours.log("api-1") == "to stdout\nto stderr"
    engine.with_name("engine.inspect").write_text("exit 1")
    assert not ours.running("api-1")
    assert ours.restarts("api-1") == 0
    ours.stop("api-1")
    ours.remove("api-1")
    calls = engine.with_name("engine.calls").read_text().splitlines()
    assert calls[-2:] == ["stop --time 40 api-1", "rm --force api-1"]


def test_a_failed_command_of_the_engine_is_said_in_its_words(engine: Path, tmp_path: Path):
    """Of a long complaint the end."""
    engine.with_name("engine.pull").write_text("seq 1 9999 >&2; echo manifest unknown >&2; exit 125")
    with pytest.raises(RefusedError, match=r"'engine pull' failed: [^a-z]*9999\nmanifest unknown$") as raised:
        containers(tmp_path).run("pull", "x")
    assert len(str(raised.value)) < 600


def test_a_missing_engine_is_said_with_what_to_install(tmp_path: Path):
    """It is a wrong call: nothing was tried."""
    missing = Containers("no-such-engine", "publish", None, "2g", tmp_path)
    with pytest.raises(WrongCallError, match=r"There is no command 'no-such-engine'\. Install it, or"):
        missing.run("version")


# --- haproxy ---


HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture(params=["a stand-in", HAPROXY] if HAPROXY else ["a stand-in"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """With a service in each slot; the real haproxy too, where there is one, holds the stand-in to it."""
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
    """Run it with the project's configuration; its socket is there."""
    text = (ROOT / "deploy/proxy/haproxy.cfg").read_text()
    for slot, fixed in (("blue", "8001"), ("green", "8002")):
        text = text.replace(f"127.0.0.1:{fixed}", f"127.0.0.1:{PORTS[slot]}")
    (folder / "haproxy.cfg").write_text(text)
    environment = os.environ | {"STATE": str(folder), "PORT": str(free_port())}
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


def test_the_traffic_is_switched_now_and_after_a_restart(proxy: Proxy):
    """The map in memory and the file that a restart reads."""
    assert proxy.active() == "blue"
    proxy.switch("green")
    assert proxy.active() == "green"
    assert (proxy._map).read_text() == "active green\n"


def test_a_slot_is_closed_and_opened_in_both_backends(proxy: Proxy):
    """As the one with the traffic and as the backup of the other."""
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
def test_what_haproxy_refuses_is_said_in_its_words(proxy: Proxy, command: str, words: str):
    """A haproxy that runs with another folder, for one."""
    with pytest.raises(RefusedError, match=f"haproxy refused '{command}': {words}"):
        proxy.ask(command)


def test_a_missing_haproxy_is_said_with_how_to_start_it(tmp_path: Path):
    """The command has the folder in it."""
    with pytest.raises(RefusedError, match=r"haproxy does not answer at .* Start it: ") as raised:
        Proxy(tmp_path, "http://127.0.0.1").active()
    assert str(raised.value).endswith(f"STATE={tmp_path} PORT=80 haproxy -f proxy/haproxy.cfg")


def test_the_slots_ports_are_those_of_haproxy_s_configuration():
    """Each slot is a server in both backends: the one's own and the other's backup."""
    text = (ROOT / "deploy/proxy/haproxy.cfg").read_text()
    for slot, port in (("blue", 8001), ("green", 8002)):
        assert PORTS[slot] == port
        assert text.count(f"server {slot} 127.0.0.1:{port}") == 2
