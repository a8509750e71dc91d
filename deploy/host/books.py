"""The state of a host, saved before each step, with its settings, its journal and the lock of its deploys."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from host.errors import DeployError, LockedError, WrongCallError

PORTS = {"blue": 8001, "green": 8002}
"""Port of each slot on the loopback interface, as in `proxy/haproxy.cfg`."""


@dataclass(frozen=True)
class Release:
    """A container of an image, with what it runs with."""

    image: str
    container: str
    slot: str
    model: str
    """Version of the model, as the service reports it."""
    deployed_at: str
    settings: str | None = None
    """Name of its settings file in the folder `settings`, "" for none, None if an earlier version of this
    program deployed it, which did not keep them."""
    memory: str = "2g"
    shadow: str = ""
    """Image whose model answers in the background, for comparison."""

    @property
    def digest(self) -> str:
        """Digest of the image."""
        return self.image.rsplit("@", 1)[-1]


@dataclass
class State:
    """What this host runs. Saved before each step, so that the next call knows how far this one got."""

    active: Release | None = None
    previous: Release | None = None
    candidate: Release | None = None
    phase: str = "idle"
    """idle, starting (the candidate has no traffic), baking (it has a share), switching, draining (it has
    passed every check, and the old release has no request left)."""


class Books:
    """The state, the journal and the lock, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongCallError(
                f"cannot create {folder}: {error.strerror}. Choose another folder with --state."
            ) from error
        self.state = self._read()

    def _read(self) -> State:
        path = self.folder / "state.json"
        if not path.exists():
            return State()
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            releases = {
                name: _release(content[name]) if content[name] else None
                for name in ("active", "previous", "candidate")
            }
            return State(**releases, phase=content["phase"])
        except (ValueError, KeyError, TypeError) as error:
            raise WrongCallError(
                f"{path} is damaged ({error}). Restore it, or move it away and stop the containers "
                f"labelled deploy.state={self.folder.resolve()}."
            ) from error

    @property
    def written(self) -> bool:
        """Whether a state has been saved: without one, nobody knows which container is which."""
        return (self.folder / "state.json").exists()

    def save(self) -> None:
        """Save the state and what Prometheus scrapes; a crash leaves either the old or the new file intact.

        Raises:
            DeployError: the file cannot be written.
        """
        state = self.state
        write_whole(self.folder / "state.json", json.dumps(asdict(state), indent=2) + "\n")
        seen = [state.active, state.candidate if state.phase != "starting" else None]
        targets = [
            {
                "targets": [f"127.0.0.1:{PORTS[release.slot]}"],
                "labels": {"job": "classifier", "slot": release.slot},
            }
            for release in seen
            if release
        ]
        write_whole(self.folder / "targets.json", json.dumps(targets, indent=2) + "\n", mode=0o644)

    def note(self, event: str, **facts: object) -> None:
        """Append an event to the journal; a deploy does not depend on it."""
        try:
            with (self.folder / "history.jsonl").open("a", encoding="utf-8") as journal:
                journal.write(json.dumps({"time": now(), "event": event, **facts}) + "\n")
        except OSError as error:
            print(f"warning: '{event}' is missing in the journal: {error.strerror}", file=sys.stderr)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; the operating system releases it however the process ends.

        Raises:
            LockedError: another process holds it.
        """
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "?"
                raise LockedError(
                    f"Another deploy is running here (process {holder}). Wait for it to end."
                ) from None
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
            self.state = self._read()
            yield


def _release(content: dict[str, Any]) -> Release:
    """Return a release as any version of this program has saved it."""
    known = {field.name for field in fields(Release)}
    return Release(**{name: value for name, value in content.items() if name in known})


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace the file atomically.

    Raises:
        DeployError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch(mode)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DeployError(
            f"cannot write {path}: {error.strerror}. Free space or correct its permissions; the next call "
            "repairs what this one left."
        ) from error


def now() -> str:
    """Return the time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
