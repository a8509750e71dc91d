"""Containers of the service, run by the command line of an engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from host.books import Release
from host.errors import RefusedError, WrongCallError

PORTS = {"blue": 8001, "green": 8002}
"""Port of each slot on the loopback interface, as in `proxy/haproxy.cfg`."""
# A container needs no privileges: it only computes and responds.
_HARDENED = [
    "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256",
    "--restart", "unless-stopped",
]  # fmt: skip


class Containers:
    """Runs and inspects containers by the command line of an engine."""

    def __init__(self, command: str, network: str, env_file: Path | None, memory: str, books: Path) -> None:
        """Store how to run containers; each is labelled with the state folder `books`."""
        self._books = books.resolve()
        self._command, self._network, self._env_file, self._memory = command, network, env_file, memory

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine.

        Raises:
            RefusedError: the command failed.
            WrongCallError: the engine is not installed.
        """
        try:
            done = subprocess.run([self._command, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise WrongCallError(
                f"There is no command {self._command!r}. Install it, or choose another with --engine."
            ) from None
        if check and done.returncode:
            raise RefusedError(
                f"'{self._command} {arguments[0]}' failed: {(done.stderr or done.stdout).strip()[-500:]}"
            )
        return done

    def start(self, release: Release) -> None:
        """Start the container of a release; create it if there is none, or if it does not start."""
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
        """Report whether the container exists and runs."""
        done = self.run("inspect", "--format", "{{.State.Running}}", container, check=False)
        return done.returncode == 0 and done.stdout.strip() == "true"

    def restarts(self, container: str) -> int:
        """Return how often the engine has restarted the container after it exited."""
        done = self.run("inspect", "--format", "{{.RestartCount}}", container, check=False)
        return int(done.stdout.strip() or 0) if done.returncode == 0 else 0

    def stop(self, container: str) -> None:
        """Send SIGTERM, on which the service drains and exits; kill it after 40 s."""
        self.run("stop", "--time", "40", container, check=False)

    def remove(self, container: str) -> None:
        """Remove the container, running or not."""
        self.run("rm", "--force", container, check=False)

    def log(self, container: str, lines: int = 20) -> str:
        """Return the last lines of the log."""
        done = self.run("logs", "--tail", str(lines), container, check=False)
        return (done.stdout + done.stderr).strip()
