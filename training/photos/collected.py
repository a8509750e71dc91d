"""What a service has collected in, labelled photos out: from its databases, or over HTTP while it runs.

`training.photos.adding` asks. Only `serving` reads its databases, so a process of it exports them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from common.errors import PipelineError
from common.key import key_header
from common.progress import progress
from training.photos.report import FEEDBACK, REVIEW

_SQLITE: Final = b"SQLite format 3\0"
_TABLES: Final = {REVIEW: {"photos", "verdicts"}, FEEDBACK: {"answers"}}
_ROUTE: Final = "/review/export"
_ROOT: Final = Path(__file__).parents[2]
_TIMEOUT: Final = httpx.Timeout(30, read=600)
"""The service answers once it has packed everything."""


def kind_of(path: Path) -> str | None:
    """Whose database a file is, by its tables; None if it is no SQLite file.

    Raises:
        PipelineError: it is a database of something else, or cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("select name from sqlite_master where type = 'table'")
            tables = {str(row[0]) for row in found}
    except sqlite3.Error as error:
        raise PipelineError(f"The database {path} cannot be read: {error}. Copy it again.") from error
    for kind, needed in _TABLES.items():
        if needed <= tables:
            return kind
    raise PipelineError(
        f"{path} is a database of something else, with the tables {', '.join(sorted(tables)) or '(none)'}. "
        "Name the file that SERVING_REVIEW or SERVING_FEEDBACK names."
    )


def export(kind: str, database: Path, out: Path) -> None:
    """Export the labelled photos of a database to the new folder `out`, also while a service uses it.

    Raises:
        PipelineError: the export fails, with its own words; or there is no photo to train on.
    """
    command = [sys.executable, "-m", "serving", f"export-{kind}", str(database.resolve()), str(out.resolve())]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = done.stderr.strip()
        raise PipelineError(said.partition("error: ")[2] or f"The export of {database} failed: {said}")
    if kind == FEEDBACK and not any(path.is_dir() for path in out.iterdir()):
        raise PipelineError(
            f"No answer in {database} has both a label and its photo. Labels come by POST /feedback, and "
            "photos are kept with SERVING_FEEDBACK_PHOTOS=true."
        )


def is_service(source: str) -> bool:
    """Whether an address is the export of a service's review: only such a one is sent the key."""
    parts = urlsplit(source)
    return parts.scheme in ("http", "https") and parts.path.endswith(_ROUTE)


def name_of(address: str) -> str:
    """Host and port of a service."""
    return urlsplit(address).netloc.rpartition("@")[2]


def download(address: str, out: Path) -> None:
    """Write what a running service exports to the file `out`.

    A redirect is not followed, because the key is for the named service alone.

    Raises:
        PipelineError: there is no service, or it refuses.
    """
    try:
        with httpx.stream("GET", address, headers=key_header(), timeout=_TIMEOUT) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                raise PipelineError(_refusal(address, response))
            total = int(response.headers.get("Content-Length", 0)) or None
            with out.open("wb") as file, progress("download", total, "B", unit_scale=True) as bar:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    bar.update(len(chunk))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PipelineError(
            f"No complete answer came from {address}: {str(error) or type(error).__name__}. Check that the "
            "service runs there, and run it again."
        ) from error


def _refusal(address: str, response: httpx.Response) -> str:
    """Why a service does not export, and what to do."""
    if response.is_redirect:
        return (
            f"{address} refers to {response.headers.get('Location')}. The key is sent only to the address "
            "that you name: name that one, if it is yours."
        )
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{address} refuses the API key. Set SERVING_API_KEY to a key of the service."
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = "Check that the address is that of the service, and that its release has this route."
    return f"{address} answers {response.status_code}. {detail}"
