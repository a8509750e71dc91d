"""A SQLite file in, an open connection with the present schema out, for the stores of `serving.observers`.

What is deleted is overwritten, and a commit is on disk before it returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

BUSY_MS: Final = 5000
OF_REQUEST: Final = (
    "(request_id = :id or (request_id between :id || '.' and :id || '/' "
    "and substr(request_id, length(:id) + 2) not glob '*[^0-9]*'))"
)
"""Condition on the photos of the request `:id`: its own, and those of a list, such as `0c6f….2`."""


def connect(path: Path, migrations: Sequence[str], table: str, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open or create a database.

    Args:
        path: The file.
        migrations: What makes each version of the schema from the one before, in statements separated by
            semicolons. They only add tables, indices and columns with a default: after a rollback the
            release before still works.
        table: One that the first migration makes; without it the file is new, or somebody dropped the table.
        busy_ms: How long a transaction waits for that of another process.

    Raises:
        sqlite3.Error: the file cannot be opened, or is not a database.
    """
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute(f"pragma busy_timeout = {busy_ms}")
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.execute("pragma secure_delete = on")
        _migrate(database, migrations, table)
    except sqlite3.Error:
        database.close()
        raise
    return database


def used_bytes(database: sqlite3.Connection) -> int:
    """Bytes in use: those of pages that are not free."""
    pages, free, size = (
        int(database.execute(f"pragma {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def forget(database: sqlite3.Connection) -> bool:
    """Take what was deleted out of the write-ahead log too; False if another process holds it just now."""
    busy, _, _ = database.execute("pragma wal_checkpoint(truncate)").fetchone()
    return not busy


def _migrate(database: sqlite3.Connection, migrations: Sequence[str], table: str) -> None:
    """Bring the schema to the present version; leave a later one as it is."""
    if _version(database, table) >= len(migrations):
        return
    database.execute("begin immediate")  # two releases may open it at once
    with database:
        for script in migrations[_version(database, table) :]:
            for statement in script.split(";"):
                database.execute(statement)
        database.execute(f"pragma user_version = {len(migrations)}")


def _version(database: sqlite3.Connection, table: str) -> int:
    if not database.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone():
        return 0
    return int(database.execute("pragma user_version").fetchone()[0])
