"""The container engine, by its command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from host.books import Release
from host.errors import RefusedError, WrongCallError

PORTS = {"blue": 8001, "green": 8002}
"""Of the two slots, on the loopback interface; `proxy/haproxy.cfg` names the same."""
# What a container may do: nothing but compute and answer.
_HARDENED = [
    "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256",
    "--restart", "unless-stopped",
]  # fmt: skip


class Containers:
    """The container engine, by its command."""

    def __init__(self, command: str, network: str, env_file: Path | None, memory: str, books: Path) -> None:
        """Remember how containers are run; each is labelled with the folder of its books."""
        self._books = books.resolve()
        self._command, self._network, self._env_file, self._memory = command, network, env_file, memory

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command of the engine.

        Raises:
            RefusedError: it failed.
            WrongCallError: there is no such engine.
        """
        try:
            done = subprocess.run([self._command, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise WrongCallError(
                f"There is no command {self._command!r}. Install it, or name podman with --engine."
            ) from None
        if check and done.returncode:
            raise RefusedError(
                f"'{self._command} {arguments[0]}' failed: {(done.stderr or done.stdout).strip()[-500:]}"
            )
        return done

    def start(self, release: Release) -> None:
        """Start the container of a release again; where there is none, or it will not start, a new one."""
        if self.run("start", release.container, check=False).returncode == 0:
            return
        self.remove(release.container)
        port = PORTS[release.slot]
        if self._network == "host":
            where = ["--network", "host", "--env", f"PORT={port}", "--env", "HOST=127.0.0.1"]
        else:
            where = ["--publish", f"127.0.0.1:{port}:8000"]
        options = [
            *_HARDENED,
            "--label",
            f"deploy.state={self._books}",
            "--memory",
            self._memory,
            *where,
            "--env",
            f"DEPLOYMENT={release.digest}",
        ]
        if self._env_file:
            options += ["--env-file", str(self._env_file)]
        self.run("run", "--detach", "--name", release.container, *options, release.image)

    def running(self, container: str) -> bool:
        """Whether it exists and runs."""
        done = self.run("inspect", "--format", "{{.State.Running}}", container, check=False)
        return done.returncode == 0 and done.stdout.strip() == "true"

    def restarts(self, container: str) -> int:
        """How often the engine has started it again after it ended by itself."""
        done = self.run("inspect", "--format", "{{.RestartCount}}", container, check=False)
        return int(done.stdout.strip() or 0) if done.returncode == 0 else 0

    def stop(self, container: str) -> None:
        """SIGTERM: the service drains by itself and ends."""
        self.run("stop", "--time", "40", container, check=False)

    def remove(self, container: str) -> None:
        """Whatever state it is in."""
        self.run("rm", "--force", container, check=False)

    def log(self, container: str, lines: int = 20) -> str:
        """Its last lines."""
        done = self.run("logs", "--tail", str(lines), container, check=False)
        return (done.stdout + done.stderr).strip()
