"""`deploy/remote.sh` against a stand-in for ssh, which runs the remote command in a folder here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.haproxy import Haproxy
from tests.deploy.stand_ins import Engine
from tests.tiny import ROOT

SSH = '#!/bin/sh\ncd "$REMOTE_HOME"\nfor last; do :; done\nexec sh -c "$last"\n'


def remote(folder: Path, *words: str, status: int = 0, **settings: str) -> str:
    """Call deploy.py on the host, by default for its status; what is printed."""
    ssh = folder / "bin/ssh"
    if not ssh.exists():
        ssh.parent.mkdir()
        ssh.write_text(SSH)
        ssh.chmod(0o755)
        (folder / "home").mkdir()
    environment = os.environ | settings
    environment |= {"PATH": f"{ssh.parent}:{os.environ['PATH']}", "REMOTE_HOME": str(folder / "home")}
    command = [
        "bash",
        str(ROOT / "deploy/remote.sh"),
        *(words or ["status"]),
        "--state",
        str(folder / "state"),
    ]
    done = subprocess.run(
        command,
        env=environment | {"DEPLOY_HOST": "user@host"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_host_gets_the_named_photos_and_no_others(tmp_path: Path):
    """Those of an earlier model would refuse the next one; the path may be relative."""
    smoke = tmp_path / "home/cats-dogs-deploy/smoke"
    assert "nothing has been deployed on this host yet" in remote(tmp_path)
    assert {photo.name for photo in smoke.iterdir()} == {"cat.jpg", "dog.jpg"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/01.jpg").write_bytes(b"photo")
    remote(tmp_path, SMOKE="photos")
    assert [photo.name for photo in smoke.iterdir()] == ["01.jpg"]


@pytest.mark.parametrize("how", ["a file", "a text"])
def test_the_settings_reach_the_host_and_their_copy_does_not_stay(tmp_path: Path, how: str):
    """From a local file, or from a secret of CI; the exit status is that of deploy.py."""
    (tmp_path / "here.env").write_text(
        "SERVING_WORKERS='2'\n"
    )  # in quotes, so that deploy.py says what it read
    settings = {"ENV_FILE": "here.env"} if how == "a file" else {"SERVICE_ENV": "SERVING_WORKERS='2'"}
    call = ("deploy", f"x@sha256:{'a' * 64}", "--engine", "true")
    remote(tmp_path)  # makes the stand-in for ssh
    with haproxy_answers(tmp_path / "state"):
        assert "SERVING_WORKERS is in quotes" in remote(tmp_path, *call, status=2, **settings)
    assert not (tmp_path / "home/cats-dogs-deploy/service.env").exists()
    assert "is in quotes" not in remote(tmp_path, "status", **settings)


def test_a_settings_file_that_is_missing_stops_before_anything_is_sent(tmp_path: Path):
    """A deploy with the settings of before would not be what was asked for."""
    remote(tmp_path)
    shutil.rmtree(tmp_path / "home/cats-dogs-deploy")
    assert "No such file" in remote(tmp_path, "deploy", "x", status=1, ENV_FILE="none.env")
    assert not (tmp_path / "home/cats-dogs-deploy").exists()


@contextmanager
def haproxy_answers(state: Path) -> Iterator[None]:
    """Answer on haproxy's socket, as far as a deploy comes before it reads the settings."""
    state.mkdir(exist_ok=True)
    with Haproxy(Engine(), state).serve():
        yield
