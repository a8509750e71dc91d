"""A source in, raw photos out: `data/raw/<label>/<file>` and `data/fetch.json`.

A source is the public archive, Kaggle, another URL, a local zip, a folder with a sub-folder per class, or
pictures from `training.photos.drawn`. Earlier photos stay until the new ones are complete.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from common import files
from common.errors import PipelineError
from common.photos import is_leftover
from common.progress import progress
from training.config import FetchConfig
from training.photos.archive import extract
from training.photos.download import download
from training.photos.drawn import draw_dataset
from training.photos.layout import OTHER_SOURCES, check_space, class_root, labels_of
from training.place import Place

ADDRESSES: Final = {
    "microsoft": "https://download.microsoft.com/download/3/E/1/"
    "3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    "kaggle": "https://www.kaggle.com/api/v1/datasets/download/shaunthesheep/microsoft-catsvsdogs-dataset",
}


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
    """Number of files per class."""


def fetch(config: FetchConfig, place: Place) -> Report:
    """Fetch the photos of `config.source` into `place.raw`.

    Raises:
        PipelineError: the source cannot be reached or read, or does not hold labelled photos.
    """
    source = config.source
    local = Path(source).expanduser()
    if source == "sample":

        def draw(to: Path) -> None:
            draw_dataset(to, config.sample_per_class, config.sample_seed)

        report = _install("sample", "drawn", draw, place)
    elif source in ADDRESSES or source.startswith(("http://", "https://")):
        archive = download(ADDRESSES.get(source, source), place.downloads)
        report = _from_zip(source if source in ADDRESSES else "url", archive, place)
    elif local.is_dir():
        report = _install("folder", local.resolve().name, lambda to: _copy_folder(local, to), place)
    elif local.is_file():
        report = _from_zip("zip", local, place)
    else:
        raise PipelineError(
            f"The source {source!r} is neither a known name nor an existing file or folder. " + OTHER_SOURCES
        )
    files.write_json(place.fetch_report, report)
    return report


def _install(kind: str, name: str, fill: Callable[[Path], None], place: Place) -> Report:
    """Fill a new folder, describe it and replace the raw photos with it."""
    with files.atomic_folder(place.raw) as folder:
        fill(folder)
        counts, size, digest = Counter[str](), 0, hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                relative = path.relative_to(folder)
                counts[relative.parts[0]] += 1
                size += path.stat().st_size
                digest.update(f"{relative.as_posix()}\0{files.sha256(path)}\n".encode())
        return Report(kind, name, digest.hexdigest(), size, dict(counts))


def _from_zip(kind: str, archive: Path, place: Place) -> Report:
    report = _install(kind, archive.name, lambda to: extract(archive, to), place)
    return Report(kind, archive.name, files.sha256(archive), archive.stat().st_size, report.files)


def _copy_folder(source: Path, target: Path) -> None:
    """Copy the class folders of `source` to `target/<label>/`."""
    found = [path for path in source.rglob("*") if path.is_file()]
    photos = [path for path in found if not is_leftover(path.relative_to(source))]
    top = source / class_root(PurePosixPath(path.relative_to(source).as_posix()) for path in photos)
    inside = {path: path.relative_to(top) for path in photos if path.is_relative_to(top)}
    inside = {path: inner for path, inner in inside.items() if len(inner.parts) > 1}
    labels = labels_of(
        {path.name for path in top.iterdir() if path.is_dir() and not is_leftover(Path(path.name))},
        [inner.parts[0] for inner in inside.values()],
    )
    check_space(sum(path.stat().st_size for path in inside), target)
    with progress("copy", len(inside), "files") as bar:
        for path, inner in inside.items():
            to = target / labels[inner.parts[0]] / Path(*inner.parts[1:])
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
            bar.update()
