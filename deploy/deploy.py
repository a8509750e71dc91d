#!/usr/bin/env python3
"""Replace the service on this host by another image without losing a request, or refuse and say why.

    deploy.py init                            write what haproxy needs before its first start
    deploy.py deploy NAME@sha256:…            start, check, switch, drain; keep the old release for rollback
    deploy.py rollback                        return to the previous release
    deploy.py status                          show what serves and what is kept
    deploy.py validate [NAME@sha256:…] --url  from anywhere: does URL serve that image, and correctly?

Needs docker (or podman), haproxy with proxy/haproxy.cfg, and nothing beyond Python's standard library. The
new container starts in the idle slot, alongside the old one. It gets traffic only once it is ready, runs the
expected image and model, and predicts the smoke photos correctly. The old container keeps running until the
public address answers as the new release. After a kill at any step, the next call repairs the state first.

Exit status: 0 deployed (or deployed before), 1 refused and the old release keeps serving, 2 wrong call,
3 another deploy is running.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from pathlib import Path

from host.books import Books
from host.checks import validate
from host.containers import Containers
from host.errors import DeployError, RefusedError, WrongCallError
from host.proxy import Proxy
from host.steps import Deployer, say

SMOKE = Path(__file__).resolve().parent / "smoke"


def main(arguments: list[str]) -> int:
    """Run one command; the module's docstring lists the exit statuses."""
    try:
        say(run(parse(arguments)))
    except DeployError as error:
        print(f"{error.word}: {error}", file=sys.stderr)
        return error.status
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; exits with 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="deploy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    commands = ["deploy", "rollback", "status", "validate", "init"]
    add("command", choices=commands, metavar="COMMAND", help=", ".join(commands))
    add("image", nargs="?", default="", help="image by digest: NAME@sha256:…")
    add(
        "--state",
        type=Path,
        default=Path(os.environ.get("STATE") or "/var/lib/cats-dogs"),
        help="folder for this host's state, default $STATE or /var/lib/cats-dogs",
    )
    add(
        "--url",
        default=os.environ.get("URL") or "http://127.0.0.1",
        help="address that callers use, default $URL or http://127.0.0.1",
    )
    add("--engine", default="docker", help="docker (default) or podman")
    add(
        "--network",
        choices=["publish", "host"],
        default="publish",
        help="how the host reaches the container: a published port (default) or the host's network",
    )
    add("--memory", default="2g", help="memory limit of the container, default 2g")
    add("--env-file", type=Path, help="settings of the service, one NAME=value per line")
    add(
        "--smoke",
        type=Path,
        default=Path(os.environ.get("SMOKE") or SMOKE),
        help="folder of photos named after their label, default $SMOKE or the folder next to this file",
    )
    add("--ready-seconds", type=float, default=60, help="how long to wait until it is ready, default 60")
    options = parser.parse_args(arguments)
    found = re.fullmatch(r".+@(sha256:[0-9a-f]{64})", options.image)
    if (options.command == "deploy" or options.image) and not found:
        parser.error(
            "name the image by digest, NAME@sha256:…: a tag can point to another image tomorrow "
            "('docker inspect --format {{.RepoDigests}} NAME' prints the digest)"
        )
    options.digest = found[1] if found else ""
    options.url = options.url.rstrip("/")
    return options


def run(options: argparse.Namespace) -> str:
    """Run the command; return the closing message.

    Raises:
        DeployError: the command was not carried out.
    """
    key = api_key(options.env_file)
    if options.command == "validate":
        model = validate(options.url, options.digest, options.smoke, key, options.ready_seconds)
        return f"{options.url} predicts correctly: model {model['name']} {model['version']} {options.digest}"
    books, proxy = Books(options.state), Proxy(options.state, options.url)
    if options.command == "status":
        return status(books, proxy)
    engine = Containers(options.engine, options.network, options.env_file, options.memory, options.state)
    deployer = Deployer(books, engine, proxy, options.smoke, options.ready_seconds, key)
    with books.locked():
        proxy.prepare()
        if options.command == "init":
            return f"haproxy can start now: STATE={options.state} PORT=80 haproxy -f proxy/haproxy.cfg"
        return deployer.deploy(options.image) if options.command == "deploy" else deployer.rollback()


def status(books: Books, proxy: Proxy) -> str:
    """Describe the release that serves and those that are kept."""
    state = books.state
    lines = [
        f"{name:9} {release.image} ({release.slot}, model {release.model}, {release.deployed_at})"
        for name in ("active", "previous", "candidate")
        if (release := getattr(state, name))
    ]
    with contextlib.suppress(RefusedError):
        lines.append(f"traffic   {proxy.active()}")
    return "\n".join(lines or ["nothing has been deployed on this host yet"])


def api_key(env_file: Path | None) -> str:
    """Return the service's API key from its settings, for the smoke test; empty if it has none.

    Raises:
        WrongCallError: the settings file cannot be read.
    """
    try:
        text = env_file.read_text(encoding="utf-8") if env_file else ""
    except OSError as error:
        raise WrongCallError(f"cannot read {env_file}: {error.strerror}. Check --env-file.") from error
    if not text and "SERVING_API_KEY" in os.environ:
        return os.environ["SERVING_API_KEY"]
    found = re.search(r"^SERVING_API_KEY=(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
