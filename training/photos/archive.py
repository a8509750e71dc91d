"""A zip in, its photos out as `<label>/<file>`; `training.photos.sources` calls it."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from common.errors import PipelineError
from common.photos import is_leftover
from common.progress import progress
from training.photos.layout import check_space, class_root, labels_of

_CHUNK_BYTES: Final = 1 << 20


def extract(archive: Path, target: Path) -> None:
    """Extract the class folders of a zip to `target/<label>/`.

    Raises:
        PipelineError: the archive is damaged, encrypted or unsafe, or has no labelled photos.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = [m for m in content.infolist() if not is_leftover(PurePosixPath(m.filename))]
            for member in members:
                _check(archive, member)
            _extract_photos(content, members, target)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PipelineError(
            f"{archive} is not a complete zip file ({error}): it is truncated or damaged. "
            "Delete it if it was downloaded here, and fetch it again."
        ) from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression method
        raise PipelineError(
            f"{archive} cannot be extracted: {error}. Extract it yourself, and name the folder: "
            "DATA=path/to/folder."
        ) from error


def _extract_photos(content: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path) -> None:
    photos = {member: PurePosixPath(member.filename) for member in members if not member.is_dir()}
    root = class_root(photos.values())
    folders = {PurePosixPath(member.filename) for member in members if member.is_dir()}
    inside = {
        member: path.relative_to(root)
        for member, path in photos.items()
        if path.is_relative_to(root) and path.parent != root
    }
    labels = labels_of(
        {folder.name for folder in folders if folder.parent == root},
        [path.parts[0] for path in inside.values()],
    )
    check_space(sum(member.file_size for member in inside), target)
    with progress("extract", len(inside), "files") as bar:
        for member, path in inside.items():
            to = target / labels[path.parts[0]] / Path(*path.parts[1:])
            to.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, to.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
            bar.update()


def _check(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise PipelineError(
            f"{archive} holds the path {member.filename!r}, which leads out of the target folder. "
            "Do not trust such an archive; nothing was extracted."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise PipelineError(f"{archive} holds the link {member.filename!r}; replace it with the file itself.")
