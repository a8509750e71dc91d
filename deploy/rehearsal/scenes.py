"""The scenes of a rehearsal: deploys that succeed and fail, and the container's restrictions."""

from __future__ import annotations

import http
import json
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
