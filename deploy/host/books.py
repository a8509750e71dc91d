"""The state of a host, saved before each step, with the journal and the lock of its deploys."""

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
    """A container of an image."""

    image: str
    container: str
    slot: str
    model: str
    """Version of the model, as the service reports it."""
    deployed_at: str

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
    """idle, starting (the candidate has no traffic), switching, draining (it has passed every check)."""


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
                k: Release(**content[k]) if content[k] else None for k in ("active", "previous", "candidate")
            }
            return State(**releases, phase=content["phase"])
        except (ValueError, KeyError, TypeError) as error:
            raise WrongCallError(
                f"{path} is damaged ({error}). Restore it, or move it away and stop the containers "
                f"labelled deploy.state={self.folder.resolve()}."
            ) from error

    def save(self) -> None:
        """Save the state; a crash leaves either the old or the new file intact."""
        write_whole(self.folder / "state.json", json.dumps(asdict(self.state), indent=2) + "\n")

    def note(self, event: str, **facts: object) -> None:
        """Append an event to the journal."""
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"time": now(), "event": event, **facts}) + "\n")

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


def write_whole(path: Path, text: str) -> None:
    """Replace the file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def now() -> str:
    """Return the time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
