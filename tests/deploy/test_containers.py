"""The engine's command line, as deploy.py calls it and parses its output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from host.containers import Containers
from host.errors import RefusedError, WrongCallError
from tests.deploy.conftest import RELEASE


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `engine` on PATH that records its calls and runs `engine.VERB`, if that file exists."""
    script = tmp_path / "bin" / "engine"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >>"$0.calls"\n[ ! -f "$0.$1" ] || . "$0.$1"\nexit 0\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return script


def containers(tmp_path: Path, network: str = "publish") -> Containers:
    """Return what deploy.py uses."""
    (tmp_path / "state").mkdir(exist_ok=True)
    return Containers("engine", network, tmp_path / "state")


@pytest.mark.parametrize(
    ("network", "where"),
    [
        ("publish", "--publish 127.0.0.1:8002:8000"),
        ("host", "--network host --env PORT=8002 --env HOST=127.0.0.1"),
    ],
)
def test_a_container_runs_without_privileges_and_within_limits(
    engine: Path, tmp_path: Path, network: str, where: str
):
    """Read-only, without capabilities, labelled, and reachable from this machine only."""
    engine.with_name("engine.start").write_text("exit 1")
    containers(tmp_path, network).start(RELEASE, tmp_path / "service.env")
    user = f"--user {os.geteuid()}:{os.getegid()} " if os.geteuid() else ""
    started = engine.with_name("engine.calls").read_text().splitlines()[-1]
    assert started == (
        "run --detach --name api-1 --read-only --cap-drop ALL --security-opt no-new-privileges "
        "--pids-limit 256 --restart unless-stopped --log-opt max-size=20m "
        f"--label deploy.state={tmp_path / 'state'} --memory 2g --log-driver json-file --log-opt max-file=5 "
        f"{user}--volume {tmp_path / 'state/data'}:/data {where} --env DEPLOYMENT={RELEASE.digest} "
        f"--env-file {tmp_path / 'service.env'} {RELEASE.image}"
    )


def test_an_existing_container_is_started_again(engine: Path, tmp_path: Path):
    """None is created."""
    containers(tmp_path).start(RELEASE, None)
    assert engine.with_name("engine.calls").read_text() == "start api-1\n"


def test_the_engine_s_output_is_parsed(engine: Path, tmp_path: Path):
    """Whether it runs, its restarts, its logs of both streams; an unknown container does not run."""
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


def test_a_failed_command_is_reported_in_the_engine_s_words(engine: Path, tmp_path: Path):
    """A long message is cut to its end."""
    engine.with_name("engine.pull").write_text("seq 1 9999 >&2; echo manifest unknown >&2; exit 125")
    with pytest.raises(RefusedError, match=r"'engine pull' failed: [^a-z]*9999\nmanifest unknown$") as raised:
        containers(tmp_path).run("pull", "x")
    assert len(str(raised.value)) < 600


def test_a_missing_engine_is_reported_with_what_to_install(tmp_path: Path):
    """It is a wrong call: nothing was attempted."""
    missing = Containers("no-such-engine", "publish", tmp_path)
    with pytest.raises(WrongCallError, match=r"There is no command 'no-such-engine'\. Install it, or"):
        missing.run("version")
