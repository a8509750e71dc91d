"""A URL in, a file out; an interrupted download resumes where it stopped, if the file is still the same."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from common import files
from common.errors import PipelineError
from common.progress import progress
from training.photos.layout import OTHER_SOURCES

_ATTEMPTS: Final = 4


def download(address: str, folder: Path) -> Path:
    """Download an archive below `folder`, unless it is there already; return the file.

    Each address has a folder of its own: two archives of one name are two files.

    Raises:
        PipelineError: the address cannot be reached or answers with an error.
    """
    parts = urlsplit(address)
    name = PurePosixPath(unquote(parts.path)).name or "archive"
    final = folder / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    if final.exists():
        print(f"{final} is already downloaded; delete it to download it again.")
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(final.name + ".part")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download_rest(address, partial)
        except httpx.TransportError as error:
            if attempt == _ATTEMPTS or not partial.exists():
                raise PipelineError(
                    f"{address} cannot be reached: {str(error) or type(error).__name__}. What has arrived "
                    f"is kept, so run it again to resume. {OTHER_SOURCES}"
                ) from error
            print(f"The connection broke ({error}). Attempt {attempt + 1} of {_ATTEMPTS}.")
        else:
            break
    _validator(partial).unlink(missing_ok=True)
    partial.rename(final)
    return final


def _validator(partial: Path) -> Path:
    """Where the ETag or the date of a partial download is kept."""
    return partial.with_name(partial.name + ".etag")


def _download_rest(address: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    if have and _validator(partial).exists():  # RFC 9110, 13.1.5: the rest, or all of a file that has changed
        headers["If-Range"] = _validator(partial).read_text(encoding="utf-8")
    with (
        httpx.Client(follow_redirects=True, timeout=30) as client,
        client.stream("GET", address, headers=headers) as response,
    ):
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()  # longer than the file now is: start over
            _download_rest(address, partial)
            return
        if response.is_error:
            raise PipelineError(
                f"{address} answers {response.status_code} {response.reason_phrase}. {OTHER_SOURCES}"
            )
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0  # the server sends the whole file
            _remember(response, _validator(partial))
        length = int(response.headers.get("Content-Length", 0))
        total = have + length if length else None
        with (
            partial.open("ab" if have else "wb") as file,
            progress("download", total, "B", initial=have, unit_scale=True) as bar,
        ):
            for chunk in response.iter_raw():  # unbuffered: what has arrived is kept
                file.write(chunk)
                bar.update(len(chunk))


def _remember(response: httpx.Response, path: Path) -> None:
    """Keep what identifies this version of the file; a weak ETag does not (RFC 9110, 8.8.1)."""
    etag = response.headers.get("ETag", "")
    identity = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    if identity:
        files.write_text(path, identity)
    else:
        path.unlink(missing_ok=True)
