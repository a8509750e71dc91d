#!/usr/bin/env python3
"""Save what a machine must not lose into one archive, and restore it on an empty one.

    backup.py save OUT.tar.gz       STATE with releases, settings, certificate, journal, feedback and shadow
                                    models, and, in a checkout, MLflow's runs (mlflow.db, mlruns)
    backup.py restore IN.tar.gz     to the same places; nothing that exists is overwritten

Photos and models of the pipeline are in DVC's remote (`make data-push`), images in the registry,
configuration in git. Databases are copied while the service writes. The archive holds secrets: only its owner
may read it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SQLITE = b"SQLite format 3\0"
_PASSING = ("lock", "haproxy.sock", "targets.json")
"""Files of the state that the next call writes again."""


def places(state: Path, checkout: Path) -> dict[str, Path]:
    """Return what is kept: its name in the archive and its path."""
    return {"state": state, "mlflow.db": checkout / "mlflow.db", "mlruns": checkout / "mlruns"}


def files(path: Path) -> Iterator[Path]:
    """Yield the files to keep below a path, or the path itself."""
    for found in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if (
            found.is_file()
            and found.name not in _PASSING
            and not found.name.endswith((".partial", "-wal", "-shm"))
        ):
            yield found


def content(path: Path) -> bytes:
    """Return the bytes of a file; of a database those of a consistent copy.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as opened:
        is_database = opened.read(len(_SQLITE)) == _SQLITE
    if not is_database:
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        source, target = (
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True),
            sqlite3.connect(copy),
        )
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
            target.execute("pragma journal_mode = delete")
        return copy.read_bytes()


def save(archive: Path, kept: dict[str, Path]) -> list[str]:
    """Write the archive, whole or not at all; return a line for each place.

    Raises:
        OSError: a file cannot be read, or the archive cannot be written.
    """
    lines = []
    partial = archive.with_name(archive.name + ".partial")
    partial.touch(0o600)
    with tarfile.open(partial, "w:gz") as tar:
        for name, place in kept.items():
            count = size = 0
            for path in files(place) if place.exists() else ():
                info = tar.gettarinfo(
                    path, str(Path(name) / path.relative_to(place)) if place.is_dir() else name
                )
                data = content(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                count, size = count + 1, size + len(data)
            lines.append(
                f"{name:9} {place}: {count} files, {size:,} bytes" if count else f"{name:9} {place}: nothing"
            )
    partial.replace(archive)
    return lines


def restore(archive: Path, kept: dict[str, Path]) -> list[str]:
    """Write the archive's files to their places; return a line for each place.

    Raises:
        FileExistsError: a place already has one of the files; nothing has been written.
        OSError: the archive cannot be read, or a file cannot be written.
    """
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        targets = {}
        for member in members:
            name, *rest = Path(member.name).parts
            if name not in kept or ".." in rest:
                raise OSError(f"{archive} has {member.name!r}, which is none of {', '.join(kept)}")
            targets[member.name] = kept[name].joinpath(*rest)
        there = [str(path) for path in targets.values() if path.exists()]
        if there:
            raise FileExistsError(f"{there[0]} exists. Restore into an empty place, or move that one away")
        for member in members:
            path, opened = targets[member.name], tar.extractfile(member)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.name == "settings":
                path.parent.chmod(0o700)
            path.touch(member.mode)
            path.write_bytes(opened.read() if opened else b"")
            if os.geteuid() == 0:
                os.chown(path, member.uid, member.gid)
                if path.parent.name == "data":
                    os.chown(path.parent, member.uid, member.gid)
    return [f"{name:9} {place}: restored" for name, place in kept.items() if place.exists()]


def main(arguments: list[str]) -> int:
    """Run one command; return 0, or 2 if it could not be carried out."""
    parser = argparse.ArgumentParser(
        prog="backup.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["save", "restore"])
    parser.add_argument("archive", type=Path)
    state = Path(os.environ.get("STATE") or "/var/lib/cats-dogs")
    parser.add_argument("--state", type=Path, default=state, help="default $STATE or /var/lib/cats-dogs")
    options = parser.parse_args(arguments)
    kept = places(options.state, ROOT)
    try:
        lines = (save if options.command == "save" else restore)(options.archive, kept)
    except (OSError, tarfile.TarError, sqlite3.Error) as error:
        print(f"error: {options.command} failed: {error}.", file=sys.stderr)
        return 2
    print("\n".join(lines))
    if options.command == "restore":
        print("Start haproxy, then deploy the active image of deploy.py status: it starts with its settings.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
