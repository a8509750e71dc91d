"""deploy.py as far as it gets without an engine; `make rehearse` tests the rest with real containers."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import service
from tests.tiny import ROOT

DIGEST = "sha256:" + "a" * 64


def deploy(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call deploy.py as an operator does."""
    command = [sys.executable, str(ROOT / "deploy/deploy.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def url(environment: Callable[..., dict[str, str]]) -> Iterator[str]:
    """The released model's service, deployed as DIGEST."""
    with service(environment(DEPLOYMENT=DIGEST)) as process:
        process.wait_for("ready")
        yield process.url


def test_requires_the_image_by_digest():
    """A tag can point to another image tomorrow."""
    done = deploy("deploy", "cats-dogs-api:latest")
    assert done.returncode == 2
    assert "by digest, NAME@sha256:…" in done.stderr


def test_rejects_a_second_deploy_and_names_the_first(tmp_path: Path):
    """The operating system holds the lock, and releases it however the holder ends."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        done = deploy("rollback", "--state", tmp_path)
        assert done.returncode == 3
        assert "Another deploy is running here (process 4711). Wait for it to end." in done.stderr
    assert "no earlier release on this host" in deploy("rollback", "--state", tmp_path).stderr


def test_status_lists_what_serves_and_what_is_kept(tmp_path: Path):
    """It reads the saved state."""
    assert "nothing has been deployed on this host yet" in deploy("status", "--state", tmp_path).stdout
    release = {"container": "c", "slot": "blue", "model": "1", "deployed_at": "2026-01-01T00:00:00Z"}
    state = {
        "active": release | {"image": f"new@{DIGEST}"},
        "previous": release | {"image": f"old@{DIGEST}"},
        "candidate": None,
        "phase": "idle",
    }
    (tmp_path / "state.json").write_text(json.dumps(state))
    lines = deploy("status", "--state", tmp_path).stdout
    assert f"active    new@{DIGEST} (blue, model 1" in lines
    assert f"previous  old@{DIGEST}" in lines


def test_a_missing_engine_or_proxy_is_reported_with_the_next_step(tmp_path: Path):
    """Before anything changes."""
    done = deploy("deploy", f"x@{DIGEST}", "--state", tmp_path, "--engine", "no-such-engine")
    assert done.returncode == 2
    assert "There is no command 'no-such-engine'" in done.stderr
    done = deploy("deploy", f"x@{DIGEST}", "--state", tmp_path, "--engine", "true")
    assert done.returncode == 1
    assert "haproxy does not answer" in done.stderr
    assert "Start it with: " in done.stderr
    assert not (tmp_path / "state.json").exists()


def test_validates_a_service_by_its_digest_and_its_predictions(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Photos, a broken one, metrics; another digest or prediction is refused, naming the check."""
    done = deploy("validate", f"x@{DIGEST}", "--url", url)
    assert done.returncode == 0, done.stderr
    released = json.loads((ROOT / "models/release/card.json").read_text())
    assert f"predicts correctly: model {released['name']}" in done.stdout
    other = deploy("validate", "x@sha256:" + "b" * 64, "--url", url)
    assert other.returncode == 1
    assert "check 'identity' failed" in other.stderr
    (tmp_path / "dog.jpg").write_bytes((ROOT / "deploy/smoke/cat.jpg").read_bytes())
    wrong = deploy("validate", "--url", url, "--smoke", tmp_path)
    assert wrong.returncode == 1
    assert "check 'smoke' failed: dog.jpg was predicted as cat. For a model of other classes" in wrong.stderr
    monkeypatch.setenv("SMOKE", str(tmp_path))  # as make passes on SMOKE=
    assert "dog.jpg was predicted as cat" in deploy("validate", "--url", url).stderr


def test_waits_at_most_the_given_seconds_for_a_service(tmp_path: Path):
    """No service listens at the address."""
    done = deploy("validate", "--url", "http://127.0.0.1:1", "--ready-seconds", 0.3)
    assert done.returncode == 1
    assert "check 'ready' failed: http://127.0.0.1:1 is not ready after 0.3 s. If it starts" in done.stderr


def test_the_healthcheck_of_the_image_distinguishes_ready_from_not(
    url: str, environment: Callable[..., dict[str, str]]
):
    """Without curl and without a shell."""
    port = url.rsplit(":", 1)[-1]
    command = [sys.executable, "-m", "serving", "healthcheck"]
    for number, status in ((port, 0), ("1", 1)):
        done = subprocess.run(
            command, cwd=ROOT, env=environment(PORT=number), capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
    assert "port 1 does not answer" in done.stderr
