"""What a service is asked before it gets traffic, and what is refused before anything is begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from host.checks import fields, request, wait_for
from host.errors import RefusedError
from tests.deploy.conftest import Host
from tests.deploy.stand_ins import Clock, free_port, serving


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
