"""The scenes of a rehearsal: deploys that succeed and fail, and the container's restrictions."""

from __future__ import annotations

import http
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from rehearsal.load import Load, failures, show
from rehearsal.machine import HERE, STATE, URL, WORK, Transcript, get, sh, until


def deploy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call deploy.py as an operator does."""
    done = subprocess.run(deploy_command(*arguments), capture_output=True, text=True, check=False)
    with (WORK / "deploy.log").open("a") as log:
        log.write(f"$ deploy.py {' '.join(arguments)}\n{done.stdout}{done.stderr}exit {done.returncode}\n\n")
    return done


def deploy_command(*arguments: str) -> list[str]:
    """Return the command line of deploy.py for the rehearsal."""
    return [
        sys.executable,
        str(HERE / "deploy.py"),
        *arguments,
        "--state",
        str(STATE),
        "--url",
        URL,
        "--network",
        "host",
    ]


def state() -> dict[str, dict[str, str] | str | None]:
    """Return the state that deploy.py has saved."""
    content: dict[str, dict[str, str] | str | None] = json.loads((STATE / "state.json").read_text())
    return content


def release(which: str) -> dict[str, str]:
    """Return the active, previous or candidate release; empty if there is none."""
    content = state()[which]
    return content if isinstance(content, dict) else {}


def serving() -> str:
    """Return the digest that the public address reports."""
    status, text = get(f"{URL}/health")
    return str(json.loads(text).get("deployment")) if status == http.HTTPStatus.OK else f"status {status}"


def at_switch(image: str, act: Callable[[subprocess.Popen[bytes]], None]) -> int:
    """Deploy, and call `act` at the switch; return the exit status of the deploy."""
    running = subprocess.Popen(
        deploy_command("deploy", image), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: state()["phase"] == "switching" or running.poll() is not None, 90)
    act(running)
    return running.wait(120)


def kill_candidate(_: subprocess.Popen[bytes]) -> None:
    """Kill the new container once it has traffic."""
    if candidate := release("candidate"):
        until(lambda: serving() == candidate["image"].rsplit("@", 1)[-1], 10)
        sh("docker", "kill", candidate["container"])


def rehearse_deploys(record: Transcript, first: str, second: str, damaged: str, load: Load) -> None:
    """Deploy v1 to v2, a damaged image and two killed deploys; roll back; start two deploys at once."""
    digest = {name: image.rsplit("@", 1)[-1] for name, image in (("v1", first), ("v2", second))}
    with load.during() as counted:
        began = time.monotonic()
        done = deploy("deploy", second)
    took = time.monotonic() - began
    record.check("v2 replaces v1", done.returncode == 0 and serving() == digest["v2"], f"{took:.1f} s")
    record.check("no request fails meanwhile", failures(counted) == 0, show(counted))
    record.check("deploying the same digest again changes nothing", deploy("deploy", second).returncode == 0)
    with load.during() as counted:
        done = deploy("deploy", damaged)
    reason = next((line for line in done.stderr.splitlines() if "check" in line), "")
    record.check("an image with a damaged model is refused", done.returncode == 1, reason.replace("|", "/"))
    record.check(
        "v2 keeps serving, no request fails",
        serving() == digest["v2"] and not failures(counted),
        show(counted),
    )
    with load.during() as counted:
        status = at_switch(first, kill_candidate)
    record.check(
        "the new container is killed during the switch: v2 keeps serving",
        status == 1 and serving() == digest["v2"],
    )
    record.check(
        "requests inside the killed container go to the old one", not failures(counted), show(counted)
    )
    with load.during() as counted:
        at_switch(first, lambda running: running.send_signal(signal.SIGKILL))
        killed = state()["phase"]
        done = deploy("deploy", first)
    record.check(
        "deploy.py is killed during the switch: the next call repairs and deploys",
        killed == "switching" and done.returncode == 0 and serving() == digest["v1"],
    )
    record.check("no request fails meanwhile", failures(counted) == 0, show(counted))
    with load.during() as counted:
        done = deploy("rollback")
    record.check("rollback to v2", done.returncode == 0 and serving() == digest["v2"])
    record.check("no request fails meanwhile", failures(counted) == 0, show(counted))
    running = subprocess.Popen(deploy_command("deploy", first), stdout=subprocess.DEVNULL)
    until(lambda: state()["phase"] == "starting", 30)
    record.check("a second deploy at the same time is rejected", deploy("deploy", second).returncode == 3)
    record.check("the first one finishes", running.wait(120) == 0 and serving() == digest["v1"])
    containers = sh(
        "docker",
        "ps",
        "--all",
        "--filter",
        f"label=deploy.state={STATE}",
        "--format",
        "{{.Names}} {{.State}}",
    ).stdout.split("\n")
    record.check(
        "one container runs and one is kept",
        sorted(line.split()[-1] for line in containers if line) == ["exited", "running"],
    )


def rehearse_canary(record: Transcript, first: str, second: str, load: Load) -> None:
    """Give a candidate a share of the traffic first."""
    digest = {image: image.rsplit("@", 1)[-1] for image in (first, second)}
    with load.during() as counted:
        done = deploy("deploy", second, "--canary", "30", "--bake", "40s")
    bakes = [line for line in done.stdout.splitlines() if "of the bake" in line]
    seen = bakes[-1].split(": ", 1)[-1] if bakes else done.stderr[-200:].replace("\n", " ")
    record.check("a canary takes 30 % for 40 s, then all", serving() == digest[second], seen)
    record.check("no request fails meanwhile", failures(counted) == 0, show(counted))


def rehearse_night(record: Transcript, first: str, second: str, damaged: str) -> None:
    """Settings stay with the release; it dies and a bad one comes; then the whole host is lost."""
    settings = WORK / "service.env"
    settings.write_text("SERVING_FEEDBACK=/data/feedback.db\nSERVING_API_KEY=rehearsal\n")
    done = deploy("deploy", second, "--env-file", str(settings), "--shadow", first)
    shown = deploy("status").stdout
    record.check(
        "settings and a shadow model belong to the release, and feedback has its folder",
        done.returncode == 0
        and "SERVING_API_KEY=(hidden)" in shown
        and f"shadow {first}" in shown
        and (STATE / "data/feedback.db").exists(),
        done.stderr[-200:].replace("\n", " "),
    )
    active = release("active")
    sh("docker", "rm", "--force", active["container"])
    done = deploy("deploy", damaged)
    reason = next((line for line in done.stderr.splitlines() if "check" in line), "")
    record.check(
        "the release is dead and a bad image comes: it is refused for its own fault",
        done.returncode == 1 and "check 'ready' failed" in done.stderr,
        reason.replace("|", "/"),
    )
    done = deploy("deploy", first)
    record.check(
        "the next good image is deployed", done.returncode == 0, done.stderr[-200:].replace("\n", " ")
    )
    archive = WORK / "backup.tar.gz"
    backup = (sys.executable, "-c", _BACKUP, str(HERE), str(archive), str(STATE))
    saved = sh(*backup, "save").stdout
    label = f"label=deploy.state={STATE}"
    sh("docker", "rm", "--force", *sh("docker", "ps", "--all", "--quiet", "--filter", label).stdout.split())
    for name in ("state.json", "history.jsonl", "active.map", "targets.json"):
        (STATE / name).unlink()
    for name in ("settings", "data"):
        shutil.rmtree(STATE / name)
    sh(*backup, "restore")
    done = deploy("deploy", first)
    record.check(
        "the host is lost: from its backup the release serves again, with its settings",
        done.returncode == 0
        and serving() == first.rsplit("@", 1)[-1]
        and "SERVING_API_KEY=(hidden)" in deploy("status").stdout
        and (STATE / "data/feedback.db").exists(),
        saved.splitlines()[0].rsplit(": ", 1)[-1],
    )
    done = deploy("deploy", second, "--env-file", "/dev/null", "--shadow", "none")
    said = "SERVING_API_KEY is dropped: from now on the service answers everybody" in done.stdout
    record.check("a deploy that drops the key says so", done.returncode == 0 and said)


_BACKUP = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import backup
print(*getattr(backup, sys.argv[4])(Path(sys.argv[2]), {"state": Path(sys.argv[3])}))
"""
"""`backup.py` of the state alone: MLflow's runs of this checkout stay where they are."""


def rehearse_hardening(record: Transcript) -> None:
    """Check the container's restrictions from inside."""
    active = release("active")
    inside = ("docker", "exec", active["container"], "python", "-c")
    who = sh(*inside, "import os; print(os.getuid())").stdout.strip()
    record.check("the process has no privileges", who == "10001", f"uid {who}")
    written = sh(*inside, "open('/app/x', 'w')", check=False).stderr
    record.check("its root file system is read-only", "Read-only" in written)
    health = until(
        lambda: (
            sh(
                "docker", "inspect", "--format", "{{.State.Health.Status}}", active["container"]
            ).stdout.strip()
            == "healthy"
        ),
        30,
    )
    record.check("HEALTHCHECK reports healthy", health)
    found = sh(
        *inside,
        "import importlib.util as u; print([n for n in ('torchvision', 'lightning', 'mlflow', 'dvc', "
        "'pip') if u.find_spec(n)])",
    ).stdout.strip()
    record.check("no training library, no pip", found == "[]", found)
