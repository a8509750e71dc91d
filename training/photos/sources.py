"""Archive in, raw photos out: `data/raw/<label>/<file>` and `data/fetch.json`.

A source is the public archive, Kaggle, another address, a local zip, a folder with a sub-folder
for each class, or pictures that `training.photos.drawn` draws. What was there before stays until the new
photos are complete; a download goes on where it was cut.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

import httpx

from common import files
from common.errors import PipelineError
from common.photos import is_leftover, label_of
from common.progress import progress
from training import place
from training.config import FetchConfig
from training.photos.drawn import draw_dataset

ADDRESSES: Final = {
    "microsoft": "https://download.microsoft.com/download/3/E/1/"
    "3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    "kaggle": "https://www.kaggle.com/api/v1/datasets/download/shaunthesheep/microsoft-catsvsdogs-dataset",
}
OTHER_SOURCES: Final = (
    "Other sources: DATA=path/to.zip, DATA=path/to/folder (one sub-folder for each class), "
    "DATA=kaggle, DATA=https://….zip, or DATA=sample (pictures drawn here, to try the pipeline)."
)
_CHUNK_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What was fetched; written to `data/fetch.json`."""

    source: str
    """Kind of source: microsoft, kaggle, url, zip, folder or sample."""
    name: str
    """File or folder name, without its path."""
    sha256: str
    """Of the archive, or of the sorted names and contents of a folder."""
    bytes: int
    """Size of the archive or of all files."""
    files: dict[str, int]
    """Number of files by class."""


def fetch(config: FetchConfig) -> Report:
    """Bring the photos of `config.source` to `data/raw`.

    Raises:
        PipelineError: the source cannot be reached or read, or does not hold labelled photos.
    """
    source = config.source
    local = Path(source).expanduser()
    if source == "sample":
        report = _install(
            "sample", "drawn", lambda to: draw_dataset(to, config.sample_per_class, config.sample_seed)
        )
    elif source in ADDRESSES or source.startswith(("http://", "https://")):
        archive = download(ADDRESSES.get(source, source), place.DOWNLOADS)
        report = _from_zip(source if source in ADDRESSES else "url", archive)
    elif local.is_dir():
        report = _install("folder", local.resolve().name, lambda to: _copy_folder(local, to))
    elif local.is_file():
        report = _from_zip("zip", local)
    else:
        raise PipelineError(
            f"The source {source!r} is neither a known name nor a file or folder that exists. "
            + OTHER_SOURCES
        )
    files.write_json(place.FETCH_REPORT, {name: getattr(report, name) for name in report.__slots__})
    return report


def _install(kind: str, name: str, fill: Callable[[Path], None]) -> Report:
    """Fill a fresh folder, describe it and put it in place of `data/raw`."""
    with files.atomic_folder(place.RAW) as folder:
        fill(folder)
        counts, size, digest = Counter[str](), 0, hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                relative = path.relative_to(folder)
                counts[relative.parts[0]] += 1
                size += path.stat().st_size
                digest.update(f"{relative.as_posix()}\0{files.sha256(path)}\n".encode())
        return Report(kind, name, digest.hexdigest(), size, dict(counts))


def _from_zip(kind: str, archive: Path) -> Report:
    report = _install(kind, archive.name, lambda to: _extract(archive, to))
    return Report(kind, archive.name, files.sha256(archive), archive.stat().st_size, report.files)


def download(address: str, folder: Path) -> Path:
    """Download to `folder`, going on where an earlier attempt was cut; return the file.

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
                    f"is kept, and the next run goes on from there. {OTHER_SOURCES}"
                ) from error
            print(f"The connection broke ({error}); attempt {attempt + 1} of {_ATTEMPTS}.")
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
            partial.unlink()  # longer than the file is now: begin again
            _download_rest(address, partial)
            return
        if response.is_error:
            raise PipelineError(
                f"{address} answers {response.status_code} {response.reason_phrase}. {OTHER_SOURCES}"
            )
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0  # the server sends the whole file
        length = int(response.headers.get("Content-Length", 0))
        with (
            partial.open("ab" if have else "wb") as file,
            progress(
                "download", have + length if length else None, "B", initial=have, unit_scale=True
            ) as bar,
        ):
            for chunk in response.iter_raw():  # as it comes: what has arrived is kept
                file.write(chunk)
                bar.update(len(chunk))


def _extract(archive: Path, target: Path) -> None:
    """Extract the class folders of a zip to `target/<label>/`."""
    try:
        with zipfile.ZipFile(archive) as content:
            members = [
                member for member in content.infolist() if not is_leftover(PurePosixPath(member.filename))
            ]
            for member in members:
                _check_member(archive, member)
            photos = [member for member in members if not member.is_dir()]
            root = _class_root(PurePosixPath(member.filename) for member in photos)
            folders = {
                PurePosixPath(member.filename)
                for member in members
                if member.is_dir() and PurePosixPath(member.filename).parent == root
            }
            inside = {
                member: PurePosixPath(member.filename).relative_to(root)
                for member in photos
                if PurePosixPath(member.filename).is_relative_to(root)
            }
            inside = {member: path for member, path in inside.items() if len(path.parts) > 1}
            labels = _labels({folder.name for folder in folders}, [path.parts[0] for path in inside.values()])
            _check_space(sum(member.file_size for member in inside), target)
            with progress("extract", len(inside), "files") as bar:
                for member, path in inside.items():
                    to = target / labels[path.parts[0]] / Path(*path.parts[1:])
                    to.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(member) as source, to.open("wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK_BYTES)
                    bar.update()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PipelineError(
            f"{archive} is not a whole zip file ({error}): it is truncated or damaged. "
            "Fetch it again (delete it first if it was downloaded here)."
        ) from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's way to say encrypted, or a method
        raise PipelineError(f"{archive} cannot be extracted: {error}.") from error


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise PipelineError(
            f"{archive} holds the path {member.filename!r}, which leads out of the folder it is "
            "extracted to. Such an archive is not to be trusted; nothing was extracted."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise PipelineError(f"{archive} holds the link {member.filename!r}; only files are accepted.")


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with a sub-folder for each class to `target/<label>/`."""
    found = [path for path in source.rglob("*") if path.is_file()]
    photos = [path for path in found if not is_leftover(path.relative_to(source))]
    relative = [PurePosixPath(path.relative_to(source).as_posix()) for path in photos]
    root = _class_root(relative)
    top = source / root
    labels = _labels(
        {path.name for path in top.iterdir() if path.is_dir() and not is_leftover(Path(path.name))},
        [path.relative_to(root).parts[0] for path in relative if len(path.relative_to(root).parts) > 1],
    )
    _check_space(sum(path.stat().st_size for path in photos), target)
    with progress("copy", len(photos), "files") as bar:
        for path in photos:
            inner = path.relative_to(top)
            if len(inner.parts) > 1:
                to = target / labels[inner.parts[0]] / Path(*inner.parts[1:])
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
            bar.update()


def _class_root(photos: Iterable[PurePosixPath]) -> PurePosixPath:
    """The folder whose sub-folders are the classes: the deepest one that all of them share."""
    folders = {path.parent for path in photos if len(path.parts) > 1}
    if not folders:
        raise PipelineError(
            "There are no class folders: expected one folder for each class with its photos in it, "
            "such as Cat/1.jpg and Dog/1.jpg. " + OTHER_SOURCES
        )
    roots = Counter(folder.parent for folder in folders)
    return min(roots, key=lambda root: (-roots[root], len(root.parts)))


def _labels(folders: set[str], used: list[str]) -> dict[str, str]:
    """Label by folder name: the name in lower case. Every class must have photos."""
    counts = Counter(used)
    empty = sorted(folders - counts.keys())
    if empty:
        raise PipelineError(f"The class folder {empty[0]!r} has no photos. Add some, or remove the folder.")
    if len(counts) < 2:
        raise PipelineError(
            f"There is one class only ({', '.join(counts)}); a classifier needs at least two."
        )
    labels = {name: label_of(name) for name in counts}
    if len(set(labels.values())) < len(labels):
        raise PipelineError(
            f"Two class folders differ only in case: {', '.join(sorted(labels))}. Merge or rename them."
        )
    return labels


def _check_space(needed_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise PipelineError(
            f"The photos take {needed_bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. "
            "Make room and run it again."
        )
