"""What stands around the service in a rehearsal: engine, registry, wheels, and haproxy in front."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from rehearsal.engine import docker_engine
from rehearsal.machine import HERE, PORTS, STATE, WORK, process, sh, until


@contextlib.contextmanager
def delivery() -> Iterator[None]:
    """Run an engine, a registry and a server of wheels; at the end no container of ours is left."""
    (WORK / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {WORK}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{PORTS['registry']}'}}\n"
    )
    wheels = [sys.executable, "-m", "http.server", str(PORTS["wheels"]), "--bind", "127.0.0.1"]
    folder = os.environ.get("PIP_FIND_LINKS") or str(WORK)
    with contextlib.ExitStack() as stack:
        stack.enter_context(docker_engine())
        stack.callback(lambda: sh("docker", "rm", "--force", *_containers(), check=False))
        stack.enter_context(process("registry", "docker-registry", "serve", str(WORK / "registry.yml")))
        stack.enter_context(process("wheels", *wheels, "--directory", folder))
        yield


@contextlib.contextmanager
def haproxy() -> Iterator[None]:
    """Run haproxy with the state that `deploy.py init` has written."""
    command = ("haproxy", "-f", str(HERE / "proxy/haproxy.cfg"))
    with process("haproxy", *command, STATE=str(STATE), PORT=str(PORTS["proxy"])):
        until((STATE / "haproxy.sock").exists, 10)
        yield


def _containers() -> list[str]:
    """The names of the containers that deploy.py created here; the host may have others."""
    ours = ("--filter", f"label=deploy.state={STATE}")
    return sh("docker", "ps", "--all", *ours, "--format", "{{.Names}}", check=False).stdout.split()
