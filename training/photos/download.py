"""A URL in, a file out; an interrupted download resumes where it stopped."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

import httpx

from common.errors import PipelineError
from common.progress import progress
from training.photos.layout import OTHER_SOURCES

_ATTEMPTS: Final = 4


def download(address: str, folder: Path) -> Path:
    """Download a zip to `folder`, unless it is there already; return the file.

    Raises:
        PipelineError: the address cannot be reached or answers with an error.
    """
    name = PurePosixPath(urlsplit(address).path).name or "archive"
    final = folder / (name if name.endswith(".zip") else name + ".zip")
    if final.exists():
        print(f"{final} is already downloaded; delete it to download it again.")
        return final
    folder.mkdir(parents=True, exist_ok=True)
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
    partial.rename(final)
    return final


def _download_rest(address: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
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
        length = int(response.headers.get("Content-Length", 0))
        total = have + length if length else None
        with (
            partial.open("ab" if have else "wb") as file,
            progress("download", total, "B", initial=have, unit_scale=True) as bar,
        ):
            for chunk in response.iter_raw():  # unbuffered: what has arrived is kept
                file.write(chunk)
                bar.update(len(chunk))
