#!/usr/bin/env python3
"""Replace the service on this host by another image, losing no request; or leave it as it is and say why.

    deploy.py deploy NAME@sha256:…            start, prove, switch, drain; keep the old for rollback
    deploy.py rollback                        the release before, again
    deploy.py status                          what serves, and what is kept
    deploy.py validate [NAME@sha256:…] --url  from anywhere: does URL serve that image, and rightly?

Needs docker (or podman), haproxy with proxy/haproxy.cfg, and nothing beyond Python's standard library. The
new container starts beside the old one, in the slot that is idle. It takes traffic only when it is ready,
runs the image and the model that it should, and answers the smoke photos rightly; until the proxy's own
address answers as the new release, the old one runs on. Killed at any step, the next call puts things in
order first.

Exit status: 0 deployed (or already so), 1 refused and the old release serves, 2 wrong call, 3 another
deploy runs.
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
    """Do what is asked; the exit status is in the module's docstring."""
    try:
        say(run(parse(arguments)))
    except DeployError as error:
        print(f"{error.word}: {error}", file=sys.stderr)
        return error.status
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; ends the process with 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="deploy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    commands = ["deploy", "rollback", "status", "validate", "init"]
    add("command", choices=commands, help="init writes what haproxy needs to start")
    add("image", nargs="?", default="", help="by digest: NAME@sha256:…")
    add("--state", type=Path, default=Path(os.environ.get("STATE") or "/var/lib/cats-dogs"))
    add("--url", default=os.environ.get("URL") or "http://127.0.0.1", help="address that callers use")
    add("--engine", default="docker", help="docker or podman")
    add("--network", choices=["publish", "host"], default="publish", help="how the host reaches it")
    add("--memory", default="2g", help="limit of a container")
    add("--env-file", type=Path, help="settings of the service, one NAME=value a line")
    add("--smoke", type=Path, default=SMOKE, help="photos named for their label")
    add("--ready-seconds", type=float, default=60, help="time that a container may take to be ready")
    options = parser.parse_args(arguments)
    found = re.fullmatch(r".+@(sha256:[0-9a-f]{64})", options.image)
    if (options.command == "deploy" or options.image) and not found:
        parser.error(
            "name the image by digest, NAME@sha256:…: a tag can be another image tomorrow "
            "('docker inspect --format {{.RepoDigests}} NAME' tells it)"
        )
    options.digest = found[1] if found else ""
    options.url = options.url.rstrip("/")
    return options


def run(options: argparse.Namespace) -> str:
    """Do the command; return what to tell.

    Raises:
        DeployError: it was not done.
    """
    key = api_key(options.env_file)
    if options.command == "validate":
        model = validate(options.url, options.digest, options.smoke, key, options.ready_seconds)
        return f"{options.url} answers rightly: model {model['name']} {model['version']} {options.digest}"
    books, proxy = Books(options.state), Proxy(options.state, options.url)
    if options.command == "status":
        return status(books, proxy)
    engine = Containers(options.engine, options.network, options.env_file, options.memory, options.state)
    deployer = Deployer(books, engine, proxy, options.smoke, options.ready_seconds, key)
    with books.locked():
        proxy.prepare()
        if options.command == "init":
            return f"haproxy can start: STATE={options.state} PORT=80 haproxy -f proxy/haproxy.cfg"
        return deployer.deploy(options.image) if options.command == "deploy" else deployer.rollback()


def status(books: Books, proxy: Proxy) -> str:
    """What serves, and what is kept."""
    state = books.state
    lines = [
        f"{name:9} {release.image} ({release.slot}, model {release.model}, {release.deployed_at})"
        for name in ("active", "previous", "candidate")
        if (release := getattr(state, name))
    ]
    with contextlib.suppress(RefusedError):
        lines.append(f"traffic   {proxy.active()}")
    return "\n".join(lines or ["nothing was deployed here yet"])


def api_key(env_file: Path | None) -> str:
    """The service's key among its settings, for the smoke test.

    Raises:
        WrongCallError: the file of settings cannot be read.
    """
    try:
        text = env_file.read_text(encoding="utf-8") if env_file else ""
    except OSError as error:
        raise WrongCallError(f"{env_file} cannot be read: {error.strerror}. See --env-file.") from error
    if not text and "SERVING_API_KEY" in os.environ:
        return os.environ["SERVING_API_KEY"]
    found = re.search(r"^SERVING_API_KEY=(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
