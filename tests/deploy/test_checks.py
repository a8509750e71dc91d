"""The checks of a service before it gets traffic, and the calls refused before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from host.checks import fields, request, wait_for
from host.errors import RefusedError
from tests.deploy.conftest import Host
from tests.deploy.stand_ins import Clock, free_port, serving


def test_waiting_ends_when_the_condition_holds_or_the_time_is_up(clock: Clock):
    """A condition that holds takes no time; one that never holds takes all of it."""
    wait_for(lambda: True, 0, "never reported")
    assert clock.seconds == 0
    with pytest.raises(RefusedError, match=r"^it is not up after 1\.5 s\. Start it\.$"):
        wait_for(lambda: False, 1.5, "it is not up", "Start it.")
    assert clock.seconds == pytest.approx(1.5, abs=0.2)


def test_a_request_returns_a_status_or_a_reason():
    """No listener, no HTTP, and no text: none raises an exception."""
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
def test_text_other_than_a_json_object_has_no_fields(text: str):
    """For example, the page of another server on the port."""
    assert fields(text) == {}
    assert fields('{"a": 1}') == {"a": 1}


def test_a_public_address_of_another_server_is_refused(host: Host):
    """It answers 200 with a page; the switch is reverted and the reason reported."""
    host.deploy(host.image("first"))
    with serving(0, lambda *_: (200, "<html>It works!</html>")) as port:
        host.url = f"http://127.0.0.1:{port}"
        done = host.call("deploy", host.image("second"))
    assert done.status == 1
    assert (
        f"check 'public' failed: {host.url} does not report the new release. Is --url the address" in done.err
    )


def test_wrong_calls_are_refused_before_anything_starts(host: Host, tmp_path: Path):
    """Without photos or with unreadable settings the status is 2, and no container starts."""
    image = host.image("first")
    host.smoke = tmp_path / "none"
    done = host.call("deploy", image)
    assert (done.status, done.err) == (
        2,
        (
            f"error: {host.smoke} has no photos. Add one named after its label, such as cat.jpg, "
            "or name another folder with --smoke or SMOKE=.\n"
        ),
    )
    done = host.call("deploy", image, "--env-file", tmp_path / "missing.env")
    assert done.status == 2
    assert "missing.env: No such file or directory. Name a file of NAME=value lines" in done.err
    assert host.engine.containers == {}
    assert not (host.state_folder / "state.json").exists()


def test_an_image_that_cannot_be_pulled_is_reported_in_the_engine_s_words(host: Host):
    """Nothing is saved."""
    done = host.call("deploy", "registry/none@sha256:" + "d" * 64)
    assert done.status == 1
    assert "'docker pull' failed: Error: No such object: registry/none@sha256:ddd" in done.err
    assert not (host.state_folder / "state.json").exists()


def test_init_writes_what_haproxy_needs_and_status_shows_the_traffic(host: Host):
    """The map names the blue slot; an existing map is kept."""
    assert f"haproxy can start now: STATE={host.state_folder} PORT=80 " in host.call("init").out
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
