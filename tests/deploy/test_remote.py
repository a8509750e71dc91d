"""`deploy/remote.sh` against a stand-in for ssh, which runs the remote command in a folder here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.tiny import ROOT

SSH = '#!/bin/sh\ncd "$REMOTE_HOME"\nfor last; do :; done\nexec sh -c "$last"\n'


def remote(folder: Path, **settings: str) -> str:
    """Ask the host for its status; what is printed."""
    ssh = folder / "bin/ssh"
    if not ssh.exists():
        ssh.parent.mkdir()
        ssh.write_text(SSH)
        ssh.chmod(0o755)
        (folder / "home").mkdir()
    environment = os.environ | settings
    environment |= {"PATH": f"{ssh.parent}:{os.environ['PATH']}", "REMOTE_HOME": str(folder / "home")}
    command = ["bash", str(ROOT / "deploy/remote.sh"), "status", "--state", str(folder / "state")]
    done = subprocess.run(
        command,
        env=environment | {"DEPLOY_HOST": "user@host"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_host_gets_the_named_photos_and_no_others(tmp_path: Path):
    """Those of an earlier model would refuse the next one; the path may be relative."""
    smoke = tmp_path / "home/cats-dogs-deploy/smoke"
    assert "nothing has been deployed on this host yet" in remote(tmp_path)
    assert {photo.name for photo in smoke.iterdir()} == {"cat.jpg", "dog.jpg"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/01.jpg").write_bytes(b"photo")
    remote(tmp_path, SMOKE="photos")
    assert [photo.name for photo in smoke.iterdir()] == ["01.jpg"]
