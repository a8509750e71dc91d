"""The container engine, the base image and the builds of a rehearsal, also without internet access."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rehearsal.machine import CACHE, PORTS, WORK, process, sh, until

COMMANDS = {
    "docker.io": "dockerd",
    "docker-registry": "docker-registry",
    "haproxy": "haproxy",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "debootstrap": "debootstrap",
}
"""The command that each of Debian's packages provides."""


def install(commands: dict[str, str]) -> None:
    """Install the missing ones of Debian's packages, given with the command of each.

    Raises:
        SystemExit: a package is missing, and this user or system cannot install it.
    """
    paths = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [package for package, command in commands.items() if not shutil.which(command, path=paths)]
    if "docker.io" in missing and engine_answers():
        missing.remove("docker.io")
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise SystemExit(
            f"error: the rehearsal needs {', '.join(missing)} (Debian's package names). Install them first."
        )
    print("installing", *missing, flush=True)
    sh("apt-get", "update")
    sh("apt-get", "install", "-y", "--no-install-recommends", *missing, DEBIAN_FRONTEND="noninteractive")


def engine_answers() -> bool:
    """Report whether a docker engine answers."""
    return bool(shutil.which("docker")) and sh("docker", "info", check=False).returncode == 0


@contextlib.contextmanager
def docker_engine() -> Iterator[None]:
    """Use the running engine, or start one with its own sockets and a cached data folder."""
    if engine_answers():
        yield
        return
    os.environ["PATH"] = "/usr/bin:" + os.environ["PATH"]  # Debian's client supports BuildKit
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    os.environ["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
    parts = [
        f"--host=unix://{folder}/docker.sock",
        f"--data-root={CACHE}/docker",
        f"--exec-root={folder}/exec",
    ]
    parts += [f"--pidfile={folder}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    parts += ["--ip-masq=false", "--ip-forward=false"]
    CACHE.mkdir(parents=True, exist_ok=True)
    with process("dockerd", "/usr/sbin/dockerd", *parts):
        if not until(engine_answers, 60):
            log = (WORK / "dockerd.log").read_text()[-2000:]
            raise SystemExit(f"error: dockerd did not start. The end of its log:\n{log}")
        # A rehearsal that was killed leaves containers in this data folder, and they start with the engine.
        left = sh("docker", "ps", "--all", "--quiet").stdout.split()
        if left:
            sh("docker", "rm", "--force", *left)
        yield


def base_image() -> str:
    """Return Python's image, pulled from Docker Hub; without access to it, made once by debootstrap."""
    name = "python:3.11-slim-bookworm"
    if sh("docker", "image", "inspect", name, check=False).returncode == 0:
        return name
    if sh("docker", "pull", name, check=False).returncode == 0:
        return name
    tar = CACHE / "python-base.tar"
    if not tar.exists():
        print("no registry can be reached: building the base image with debootstrap (2 minutes)", flush=True)
        root = CACHE / "rootfs"
        shutil.rmtree(root, ignore_errors=True)
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        text = sources.read_text() if sources.exists() else Path("/etc/apt/sources.list").read_text()
        found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+)", text, re.MULTILINE)
        if not found:
            raise SystemExit(
                "error: apt's sources name no mirror. Load python:3.11-slim-bookworm into the engine first."
            )
        sh(
            "debootstrap",
            "--variant=minbase",
            "--include=ca-certificates,python3,python3-venv,python3-pip",
            "bookworm",
            str(root),
            found[1],
        )
        for waste in (
            "var/lib/apt/lists",
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
            "var/cache/apt",
        ):
            shutil.rmtree(root / waste, ignore_errors=True)
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
        for link in ("python", "python3"):
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3")
        sh("tar", "-C", str(root), "--numeric-owner", "-cf", str(tar), ".")
        shutil.rmtree(root)
    sh("docker", "import", str(tar), name)
    return name


def build_arguments(base: str) -> str:
    """Return the build's options on this machine: base image, and a mirror and certificates if set."""
    words = ["--network host", f"--build-arg PYTHON_IMAGE={base}"]
    certificates, wheels = os.environ.get("PIP_CERT", ""), Path(os.environ.get("PIP_FIND_LINKS", ""))
    if certificates:
        conf = WORK / "pip.conf"
        conf.write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
        words += [f"--secret id=pipconf,src={conf}", f"--secret id=ca,src={certificates}"]
    torch = sorted(wheels.glob("torch-*+cpu-cp311-*x86_64.whl")) if wheels.is_dir() else []
    if torch:
        version = torch[-1].name.split("-")[1].split("+")[0]
        words += [f"--build-arg TORCH_VERSION={version}", "--build-arg TORCH_INDEX="]
        words += [f"--build-arg TORCH_FIND_LINKS=http://127.0.0.1:{PORTS['wheels']}/"]
    return " ".join(words)


def build(name: str, model: Path, arguments: str) -> tuple[str, float]:
    """Build and push; return the image by digest and its size in megabytes."""
    tag = f"127.0.0.1:{PORTS['registry']}/cats-dogs-api:{name}"
    began = time.monotonic()
    built = sh("bash", "deploy/build.sh", "serve", IMAGE=tag, MODEL=str(model), BUILD_ARGS=arguments)
    (WORK / f"build-{name}.log").write_text(built.stdout + built.stderr)
    pushed = sh("docker", "push", tag).stdout
    digest = next(word for word in pushed.split() if word.startswith("sha256:"))
    size = int(sh("docker", "image", "inspect", "--format", "{{.Size}}", tag).stdout) / 1e6
    print(f"built and pushed {name}: {size:.0f} MB, {time.monotonic() - began:.0f} s", flush=True)
    return f"{tag.rsplit(':', 1)[0]}@{digest}", size
