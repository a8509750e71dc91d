"""Containers of the service, run by the command line of an engine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from host.books import PORTS, Release
from host.errors import DeployError, RefusedError, WrongCallError

# A container needs no privileges: it only computes and responds.
_HARDENED = [
    "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256",
    "--restart", "unless-stopped",
]  # fmt: skip
# Logs in files that podman rotates by size; Docker keeps a number of them.
_LOGS = ["--log-opt", "max-size=20m"]
_OWNER = 10001
"""User and group of the service in its image."""


class Containers:
    """Runs and inspects containers by the command line of an engine."""

    def __init__(self, command: str, network: str, books: Path) -> None:
        """Store how to run containers; each is labelled with the state folder `books`."""
        self._command, self._network, self._books = command, network, books.resolve()
        self._data = self._books / "data"

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

    def start(self, release: Release, env_file: Path | None) -> None:
        """Start the container of a release; create it if there is none, or if it does not start.

        The folder `data` of the state is its /data, the one place that it may write to.

        Raises:
            DeployError: it cannot be created or started.
        """
        if self.run("start", release.container, check=False).returncode == 0:
            return
        self.remove(release.container)
        port = PORTS[release.slot]
        if self._network == "host":
            where = ["--network", "host", "--env", f"PORT={port}", "--env", "HOST=127.0.0.1"]
        else:
            where = ["--publish", f"127.0.0.1:{port}:8000"]
        options = [*_HARDENED, *_LOGS, "--label", f"deploy.state={self._books}", "--memory", release.memory]
        if not self._command.endswith("podman"):
            options += ["--log-driver", "json-file", "--log-opt", "max-file=5"]
        options += [*self._data_options(), *where, "--env", f"DEPLOYMENT={release.digest}"]
        if release.shadow:
            options += ["--env", f"SERVING_SHADOW_MODEL=/data/{self._shadow(release.shadow)}"]
        if env_file:
            options += ["--env-file", str(env_file)]
        self.run("run", "--detach", "--name", release.container, *options, release.image)

    def _data_options(self) -> list[str]:
        try:
            self._data.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(self._data, _OWNER, _OWNER)
        except OSError as error:
            raise DeployError(
                f"cannot create {self._data}: {error.strerror}. Free space, or remove it."
            ) from error
        user = [] if os.geteuid() == 0 else ["--user", f"{os.geteuid()}:{os.getegid()}"]
        return [*user, "--volume", f"{self._data}:/data"]

    @staticmethod
    def _shadow(image: str) -> str:
        return f"shadow-{image.rsplit(':', 1)[-1][:12]}"

    def fetch_shadow(self, image: str) -> None:
        """Copy the model out of an image, so that it can answer in the background.

        Raises:
            DeployError: the image or its model cannot be had.
        """
        self._data_options()
        self.run("pull", image)
        container = self.run("create", image).stdout.strip()
        model = self._data / self._shadow(image)
        try:
            self.run("cp", f"{container}:{self._model_path(container)}", str(model))
        finally:
            self.remove(container)
        model.chmod(0o644)

    def settings(self, container: str) -> str:
        """Return the settings that a container runs with, one `NAME=value` per line."""
        return "\n".join(line for line in self._variables(container) if line.startswith("SERVING_"))

    def _model_path(self, container: str) -> str:
        """Where the image has its model."""
        found = dict(line.partition("=")[::2] for line in self._variables(container))
        return found.get("MODEL", "/app/model")

    def _variables(self, container: str) -> list[str]:
        done = self.run("inspect", "--format", "{{json .Config.Env}}", container, check=False)
        return (json.loads(done.stdout) if done.returncode == 0 else None) or []

    def ours(self) -> list[str]:
        """Return the names of all containers of this state folder, running or not."""
        label = f"label=deploy.state={self._books}"
        return self.run(
            "ps", "--all", "--filter", label, "--format", "{{.Names}}", check=False
        ).stdout.split()

    def discard(self, images: Iterable[str]) -> None:
        """Remove images that no release needs any more, unless the engine needs them."""
        for image in images:
            self.run("image", "rm", image, check=False)

    def discard_shadows(self, kept: Iterable[str]) -> None:
        """Delete the models in the data folder that no release compares itself with any more."""
        names = {self._shadow(image) for image in kept if image}
        for path in self._data.glob("shadow-*"):
            if path.name not in names:
                path.unlink(missing_ok=True)

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
