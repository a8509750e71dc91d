"""What a host runs, written down before each step; the journal and the lock beside it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host.errors import LockedError, WrongCallError


@dataclass(frozen=True)
class Release:
    """One container of one image."""

    image: str
    container: str
    slot: str
    model: str
    """Version of the model, as the service says."""
    deployed_at: str

    @property
    def digest(self) -> str:
        """The image's digest."""
        return self.image.rsplit("@", 1)[-1]


@dataclass
class State:
    """What this host runs. On disk before each step, so that the next call knows how far this one came."""

    active: Release | None = None
    previous: Release | None = None
    candidate: Release | None = None
    phase: str = "idle"
    """idle, starting (the candidate has no traffic), switching, draining (it has proven itself)."""


class Books:
    """The state, the journal and the lock, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongCallError(
                f"{folder} cannot be made: {error.strerror}. Name another with --state."
            ) from error
        self.state = self._read()

    def _read(self) -> State:
        path = self.folder / "state.json"
        if not path.exists():
            return State()
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            releases = {
                k: Release(**content[k]) if content[k] else None for k in ("active", "previous", "candidate")
            }
            return State(**releases, phase=content["phase"])
        except (ValueError, KeyError, TypeError) as error:
            raise WrongCallError(
                f"{path} is damaged ({error}). Bring it back, or move it away and stop the containers "
                f"labelled deploy.state={self.folder.resolve()}."
            ) from error

    def save(self) -> None:
        """Write the state; a crash leaves the old or the new one, never half of one."""
        write_whole(self.folder / "state.json", json.dumps(asdict(self.state), indent=2) + "\n")

    def note(self, event: str, **facts: object) -> None:
        """One line in the journal."""
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"time": now(), "event": event, **facts}) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; the system frees it when the process ends, however it ends.

        Raises:
            LockedError: somebody else holds it.
        """
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise LockedError(
                    f"Another deploy is running here (process {lock.read().strip() or '?'})."
                ) from None
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
            self.state = self._read()
            yield


def write_whole(path: Path, text: str) -> None:
    """Replace the file in one step."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
