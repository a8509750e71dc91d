"""The settings of a release: one `NAME=value` per line, kept in the state folder by their hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from host.books import write_whole
from host.errors import WrongCallError

_SECRET = re.compile("KEY|SECRET|TOKEN|PASSWORD")
KEY = "SERVING_API_KEY"


class SettingsFolder:
    """Keeps settings, readable by their owner alone, as files that an engine takes as `--env-file`."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "settings"

    def keep(self, text: str) -> str:
        """Store settings; return their name, "" for none.

        Raises:
            DeployError: they cannot be written.
        """
        lines = [f"{name}={value}\n" for name, value in parse_settings(text).items()]
        if not lines:
            return ""
        content = "".join(lines)
        name = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(self._folder / name, content)
        return name

    def path(self, name: str | None) -> Path | None:
        """Return the file of that name; None for no settings."""
        return self._folder / name if name else None

    def read(self, name: str | None) -> dict[str, str]:
        """Return the settings of that name.

        Raises:
            WrongCallError: their file is gone.
        """
        path = self.path(name)
        return parse_settings(read_file(path)) if path else {}

    def discard_all_but(self, names: set[str | None]) -> None:
        """Delete the settings of releases that are no longer kept."""
        for path in self._folder.glob("*"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def read_file(path: Path) -> str:
    """Return the text of a settings file.

    Raises:
        WrongCallError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise WrongCallError(
            f"cannot read {path}: {error.strerror}. Name a file of NAME=value lines with --env-file."
        ) from error


def parse_settings(text: str) -> dict[str, str]:
    """Return the settings of a file, as container engines read it: no quotes, `#` begins a comment line.

    Raises:
        WrongCallError: a line is not of the form `NAME=value`.
    """
    settings = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            shown = name if not _SECRET.search(name) else f"{name[:12]}…"
            raise WrongCallError(f"the settings have the line {shown!r}; each must be NAME=value.")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            raise WrongCallError(
                f"{name} is in quotes, which container engines keep as part of the value. Remove them."
            )
        settings[name] = value
    return settings


def shown(name: str, value: str) -> str:
    """Return a setting for the eyes of an operator; what is secret stays so."""
    return f"{name}=(hidden)" if _SECRET.search(name) else f"{name}={value}"


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Say what differs, one line each, in the order of the names."""
    lines = []
    for name in sorted({*old, *new}):
        if name not in new:
            danger = ": from now on the service answers everybody" if name == KEY else ""
            lines.append(f"{name} is dropped{danger}")
        elif name not in old:
            lines.append(f"{shown(name, new[name])} is new")
        elif old[name] != new[name]:
            before = "" if _SECRET.search(name) else f", before: {old[name]}"
            lines.append(f"{shown(name, new[name])} is changed{before}")
    return lines


def first_key(settings: Mapping[str, str]) -> str:
    """Return the API key to send to a service with these settings, or else that of the environment.

    A service may have several keys, separated by commas; the first one is sent.

    Raises:
        WrongCallError: the file that `SERVING_API_KEY_FILE` names cannot be read.
    """
    keys = settings.get(KEY) or os.environ.get(KEY, "")
    if not keys and (file := os.environ.get(f"{KEY}_FILE")):
        keys = read_file(Path(file))
    return next(iter(re.split(r"[,\s]+", keys.strip())), "")
