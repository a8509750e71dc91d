"""`make rehearse-compose`: start deploy/compose.yml with a real engine, use it and stop it.

The engine runs in its own network namespace, so its bridges do not touch this machine's network. Where no
registry can be reached, Debian's packages of the same programs stand in for the images; what has no such
package (Grafana) is left out and named.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rehearsal.engine import COMMANDS, base_image, build_arguments, docker_engine, engine_answers, install
from rehearsal.machine import CACHE, HERE, PORTS, ROOT, WORK, Transcript, process, sh, until

_NAMESPACE = "cats-dogs"
_ENTER = ("nsenter", f"--net=/var/run/netns/{_NAMESPACE}")  # `ip netns exec` would hide the cgroups
_PROJECT = "cats-dogs-rehearsal"
_STAND_INS = {
    "prom/prometheus:v3.5.0": ("prometheus", "prometheus", "/prometheus"),
    "prom/alertmanager:v0.28.1": ("prometheus-alertmanager", "prometheus-alertmanager", "/alertmanager"),
}
"""Per image: Debian's package, its program and its working folder."""
_OTHERS = {"grafana/grafana:12.1.1": "grafana", "cats-dogs-train:latest": "mlflow"}


def main() -> int:
    """Run the rehearsal; return 0 if every check passed."""
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    record = Transcript()
    shared = {package: COMMANDS[package] for package in ("docker.io", "debootstrap")}
    install(shared | {"docker-compose": "docker-compose", "iproute2": "ip", "curl": "curl"})
    with docker_engine():
        services = ["api", "prometheus", "alertmanager", *_images()]
    with _bridged_engine():
        try:
            _rehearse(record, services)
        finally:
            (WORK / "compose.log").write_text(_compose("logs", "--no-color", check=False))
            _compose("down", "--volumes", check=False)
    print(f"{'FAILED' if record.failed else 'passed'} in {time.monotonic() - began:.0f} s; logs in {WORK}")
    return int(record.failed > 0)


def _images() -> list[str]:
    """Build or pull the images; return which optional services have theirs."""
    wheels = os.environ.get("PIP_FIND_LINKS") or str(WORK)
    serve = [sys.executable, "-m", "http.server", str(PORTS["wheels"]), "--bind", "127.0.0.1"]
    base = base_image()
    with process("wheels", *serve, "--directory", wheels):
        sh("bash", "deploy/build.sh", "serve", BUILD_ARGS=build_arguments(base))
    for image, (package, program, folder) in _STAND_INS.items():
        if _pulled(image):
            continue
        print(f"{image} cannot be pulled: Debian's {package} stands in for it", flush=True)
        (WORK / "Dockerfile").write_text(
            f"FROM {base}\nRUN apt-get update && apt-get install -y --no-install-recommends {package} wget\n"
            f"WORKDIR {folder}\nENTRYPOINT ['{program}']\n".replace("'", '"')
        )
        sh("docker", "build", "--network", "host", "--tag", image, str(WORK), DOCKER_BUILDKIT="1")
    there = [service for image, service in _OTHERS.items() if _pulled(image)]
    print(
        "left out, because the image cannot be pulled:",
        *(set(_OTHERS.values()) - set(there)) or "nothing",
        flush=True,
    )
    return there


def _pulled(image: str) -> bool:
    return any(
        sh("docker", *words, image, check=False).returncode == 0
        for words in (("image", "inspect"), ("pull",))
    )


@contextlib.contextmanager
def _bridged_engine() -> Iterator[None]:
    """Run an engine with the same images and its own networks and ports, in a network namespace."""
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    sh("ip", "netns", "delete", _NAMESPACE, check=False)
    sh("ip", "netns", "add", _NAMESPACE)
    try:
        _inside("ip", "link", "set", "lo", "up")
        _inside("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        os.environ["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
        where = [f"--host=unix://{folder}/docker.sock", f"--data-root={CACHE}/docker"]
        where += [f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
        with process("dockerd-bridged", *_ENTER, "/usr/sbin/dockerd", *where):
            if not until(engine_answers, 60):
                raise SystemExit(f"error: dockerd did not start. Read {WORK / 'dockerd-bridged.log'}")
            yield
    finally:
        sh("ip", "netns", "delete", _NAMESPACE, check=False)


def _inside(*command: str) -> str:
    return sh(*_ENTER, *command).stdout


def _compose(*words: str, check: bool = True, **environment: str) -> str:
    files = ["--file", str(HERE / "compose.yml")]
    done = sh("docker-compose", "--project-name", _PROJECT, *files, *words, check=check, **environment)
    return done.stdout + done.stderr


def _get(url: str) -> str:
    return sh(*_ENTER, "curl", "--silent", "--max-time", "10", url, check=False).stdout


def _rehearse(record: Transcript, services: list[str]) -> None:
    """Start the services; check predictions, scraping, rules, hardening, the stop and the staging form."""
    began = time.monotonic()
    _compose("up", "--detach", *services)
    record.check(
        "compose starts each service once the one before is healthy",
        len(sh("docker", "ps", "--quiet").stdout.split()) == len(services),
        f"{time.monotonic() - began:.0f} s",
    )
    photo = f"file=@{HERE / 'smoke/dog.jpg'}"
    answer = json.loads(_inside("curl", "--silent", "-F", photo, "http://127.0.0.1:8000/predict"))
    record.check("the published port predicts a photo", answer["prediction"] == "dog")
    prometheus = "http://127.0.0.1:9090/api/v1"

    def fetched(path: str) -> dict[str, object]:
        with contextlib.suppress(json.JSONDecodeError):
            return dict(json.loads(_get(f"{prometheus}/{path}")).get("data") or {})
        return {}

    query = "query?" + urllib.parse.urlencode({"query": 'sum(classifier_requests_total{outcome="ok"})'})
    seen = until(lambda: '"1"' in json.dumps(fetched(query).get("result")), 60)
    record.check("Prometheus scrapes the service by its name", seen)
    groups = fetched("rules").get("groups")
    record.check(
        "Prometheus has loaded the alert rules",
        bool(groups),
        f"{len(groups) if isinstance(groups, list) else 0} groups",
    )
    known = until(
        lambda: "alertmanager" in json.dumps(fetched("alertmanagers").get("activeAlertmanagers")), 30
    )
    record.check("Prometheus has found Alertmanager", known)
    container = _compose("ps", "--quiet", "api").strip()
    details = json.loads(sh("docker", "inspect", container).stdout)[0]
    record.check("the service is healthy", details["State"]["Health"]["Status"] == "healthy")
    limits = details["HostConfig"]
    record.check(
        "the container is read-only, has no capabilities, and is limited",
        limits["ReadonlyRootfs"]
        and limits["CapDrop"] == ["ALL"]
        and limits["Memory"]
        and limits["PidsLimit"],
        f"{limits['Memory'] >> 20} MB, {limits['PidsLimit']} processes",
    )
    ports = [port["HostIp"] for ports in limits["PortBindings"].values() for port in ports]
    record.check("the ports are open on the loopback interface only", ports == ["127.0.0.1"], str(ports))
    began = time.monotonic()
    _compose("stop", "api")
    stopped = json.loads(sh("docker", "inspect", container).stdout)[0]["State"]
    record.check(
        "the service stops by itself with status 0",
        stopped["ExitCode"] == 0,
        f"{time.monotonic() - began:.1f} s",
    )
    staging = ("--file", str(HERE / "compose.staging.yml"), "config")
    refused = _compose(*staging, check=False)
    record.check("the staging form refuses to start without a digest", "name the image by digest" in refused)
    digest = "sha256:" + "0" * 64
    shown = _compose(*staging, IMAGE=f"localhost/cats-dogs-api@{digest}", DEPLOYMENT=digest)
    record.check(
        "with a digest the staging form is complete",
        f"cats-dogs-api@{digest}" in shown and f"DEPLOYMENT: {digest}" in shown,
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
