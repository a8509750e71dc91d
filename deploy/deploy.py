#!/usr/bin/env python3
"""Replace the service on this host by another image without losing a request, or refuse and say why.

    deploy.py init                            write what haproxy needs before its first start
    deploy.py deploy NAME@sha256:…            start, check, switch, drain; keep the old release for rollback
    deploy.py rollback [NAME@sha256:…]        return to the previous release, if that image is what serves
    deploy.py status                          show what serves and what is kept
    deploy.py validate [NAME@sha256:…] --url  from anywhere: does URL serve that image, and correctly?
    deploy.py certificate FILE                give haproxy a certificate with its key (PEM)

Needs docker (or podman), haproxy with proxy/haproxy.cfg, and nothing beyond Python's standard library. The
new container starts in the idle slot, alongside the old one. It gets traffic only once it is ready, runs the
expected image and model, and predicts the smoke photos correctly. The old container keeps running until the
public address answers as the new release. After a kill at any step, the next call repairs the state first.

Settings (--env-file), --memory and --shadow belong to the release: a deploy without them takes over those of
the active one, and a rollback brings the earlier ones back.

Exit status: 0 deployed (or deployed before), 1 refused and the old release keeps serving, 2 wrong call,
3 another deploy is running.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import ssl
import sys
from pathlib import Path

from host.books import Books
from host.checks import validate
from host.containers import Containers
from host.errors import DeployError, RefusedError, WrongCallError
from host.proxy import Proxy
from host.settings import SettingsFolder, first_key, parse_settings, read_file, shown
from host.steps import Deployer, Wish, say

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
    commands = ["deploy", "rollback", "status", "validate", "certificate", "init"]
    add("command", choices=commands, metavar="COMMAND", help=", ".join(commands))
    add("image", nargs="?", default="", help="image by digest, NAME@sha256:…; the file for certificate")
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
    add("--memory", help="memory limit of the container, for the first deploy 2g")
    add("--env-file", type=Path, help="settings of the service, one NAME=value per line; /dev/null for none")
    add(
        "--shadow", help="image by digest whose model answers in the background, for comparison; none ends it"
    )
    add("--canary", type=percent, default=0, help="percent of the traffic that the candidate gets at first")
    add("--bake", type=duration, default="10m", help="how long, as 90s, 10m or 2h, default 10m")
    add(
        "--retrained",
        action="store_true",
        help="labelled photos have shown that the candidate predicts better: it may predict otherwise",
    )
    add(
        "--smoke",
        type=Path,
        default=Path(os.environ.get("SMOKE") or SMOKE),
        help="folder of photos named after their label, default $SMOKE or the folder next to this file",
    )
    add("--ready-seconds", type=float, default=60, help="how long to wait until it is ready, default 60")
    options = parser.parse_args(arguments)
    options.digest = ""
    if options.command == "certificate":
        if not options.image:
            parser.error("name the file with certificate and key: deploy.py certificate FILE")
    elif options.image or options.command == "deploy":
        options.digest = digest(parser, options.image)
    if options.shadow == "none":
        options.shadow = ""
    elif options.shadow:
        digest(parser, options.shadow)
    options.url = options.url.rstrip("/")
    return options


def digest(parser: argparse.ArgumentParser, image: str) -> str:
    """Return the digest of an image that is named by it; exits with 2 if it is not."""
    found = re.fullmatch(r".+@(sha256:[0-9a-f]{64})", image)
    if not found:
        parser.error(
            "name the image by digest, NAME@sha256:…: a tag can point to another image tomorrow "
            "('docker inspect --format {{.RepoDigests}} NAME' prints the digest)"
        )
    return found[1]


def percent(text: str) -> int:
    """Return a share of the traffic in percent, which leaves some for the active release."""
    number = text.removesuffix("%")
    if not number.isdecimal() or int(number) > 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 1 to 99 percent; 0 is none")
    return int(number)


def duration(text: str) -> float:
    """Return the seconds of `90s`, `10m` or `2h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def run(options: argparse.Namespace) -> str:
    """Run the command; return the closing message.

    Raises:
        DeployError: the command was not carried out.
    """
    text = read_file(options.env_file) if options.env_file else None
    if options.command == "validate":
        key = first_key(parse_settings(text or ""))
        model = validate(options.url, options.digest, options.smoke, key, options.ready_seconds)
        return f"{options.url} predicts correctly: model {model['name']} {model['version']} {options.digest}"
    books, proxy = Books(options.state), Proxy(options.state, options.url)
    if options.command == "status":
        return status(books, Proxy(options.state, options.url, restart_seconds=0))
    engine = Containers(options.engine, options.network, options.state)
    deployer = Deployer(books, engine, proxy, options.smoke, options.ready_seconds)
    with books.locked():
        proxy.prepare()
        if options.command == "init":
            books.save()
            return f"haproxy can start now: STATE={options.state} PORT=80 haproxy -f proxy/haproxy.cfg"
        if options.command == "certificate":
            return certificate(proxy, Path(options.image))
        if options.command == "rollback":
            return deployer.rollback(options.image)
        wish = Wish(text, options.memory, options.shadow, options.canary, options.bake, options.retrained)
        return deployer.deploy(options.image, wish)


def certificate(proxy: Proxy, path: Path) -> str:
    """Install a certificate for haproxy.

    Raises:
        DeployError: the file is no certificate with its key, or it cannot be installed.
    """
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        raise WrongCallError(
            f"{path} is not usable: {error}. It must hold certificate, chain and key, in PEM, "
            "without a password."
        ) from error
    proxy.install_certificate(path.read_text(encoding="utf-8"))
    return f"{path} is installed; haproxy listens with it on TLS_PORT, if it was started with one."


def status(books: Books, proxy: Proxy) -> str:
    """Describe the release that serves and those that are kept, with their settings."""
    state, folder = books.state, SettingsFolder(books.folder)
    lines = []
    for name in ("active", "previous", "candidate"):
        release = getattr(state, name)
        if not release:
            continue
        lines.append(
            f"{name:9} {release.image} ({release.slot}, model {release.model}, {release.deployed_at})"
        )
        settings = [shown(*setting) for setting in folder.read(release.settings).items()]
        with_shadow = [f"shadow {release.shadow}"] if release.shadow else []
        lines.append(f"{'':9} {', '.join([*settings, *with_shadow, f'memory {release.memory}'])}")
    if state.phase != "idle":
        lines.append(f"phase     {state.phase}")
    with contextlib.suppress(RefusedError):
        lines.append(f"traffic   {proxy.active()}")
    return "\n".join(lines or ["nothing has been deployed on this host yet"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
