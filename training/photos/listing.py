"""A folder, zip or tar in, its files by name out; `training.photos.sources` copies the photos from it.

Names are relative, with forward slashes, and valid Unicode, whatever wrote them. An archive that would write
outside its folder is refused before anything is read from it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, TypeVar

from common.errors import PipelineError
from common.photos import walk

T = TypeVar("T")
_CHUNK_BYTES: Final = 1 << 20
_UTF8_FLAG: Final = 0x800  # of a zip member: its name is UTF-8
_NOT_UTF8: Final = "cp1252"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder or an archive."""

    sizes: Mapping[PurePosixPath, int]
    """Size of each file, in bytes, in the order in which they are read fastest."""
    folders: frozenset[PurePosixPath]
    """Every folder, also those without files."""
    open: Callable[[PurePosixPath], IO[bytes]]
    """Open a file for reading."""

    def copy(self, name: PurePosixPath, to: Path) -> None:
        """Copy one file; its folder is made if it does not exist."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.open(name) as source, to.open("wb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)


@contextmanager
def listed(source: Path) -> Iterator[Listing]:
    """The files of a folder, or of a zip or tar (also compressed), by content and not by suffix.

    Raises:
        PipelineError: the source is neither, or is damaged, encrypted or unsafe.
    """
    if source.is_dir():
        yield _of_folder(source)
        return
    try:
        if tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                yield _of_tar(source, tar)
        else:
            with zipfile.ZipFile(source) as content:
                yield _of_zip(source, content)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise PipelineError(
            f"{source} is not a complete zip or tar file ({error}): it is truncated or damaged, or of "
            "another kind. If it was downloaded here, delete it and fetch it again; otherwise extract it "
            "yourself, and name the folder: DATA=path/to/folder."
        ) from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression method
        raise PipelineError(
            f"{source} cannot be extracted: {error}. Extract it yourself, and name the folder: "
            "DATA=path/to/folder."
        ) from error


def _of_folder(source: Path) -> Listing:
    found: dict[PurePosixPath, Path] = {}
    folders: set[PurePosixPath] = set()
    for folder, names, files in walk(source):
        relative = folder.relative_to(source)
        folders.update(_name(str(relative / name)) for name in names)
        for name in sorted(files):
            _add(found, _name(str(relative / name)), folder / name)
    sizes = {name: path.stat().st_size for name, path in found.items()}
    return Listing(sizes, frozenset(folders), lambda name: found[name].open("rb"))


def _of_zip(source: Path, content: zipfile.ZipFile) -> Listing:
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    folders: set[PurePosixPath] = set()
    for member in content.infolist():
        name = _safe(source, _zip_name(member))
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _link(source, name)
        if member.is_dir():
            folders.add(name)
        else:
            _add(members, name, member)
    sizes = {name: member.file_size for name, member in members.items()}
    return Listing(sizes, frozenset(folders), lambda name: content.open(members[name]))


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The member's name; many tools write UTF-8 without the flag that says so."""
    if member.flag_bits & _UTF8_FLAG:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _of_tar(source: Path, content: tarfile.TarFile) -> Listing:
    members: dict[PurePosixPath, tarfile.TarInfo] = {}
    folders: set[PurePosixPath] = set()
    for member in content:
        if PurePosixPath(member.name) == PurePosixPath():
            continue
        name = _safe(source, member.name)
        if member.isdir():
            folders.add(name)
        elif member.isfile():
            _add(members, name, member)
        else:
            raise _link(source, name)

    def read(name: PurePosixPath) -> IO[bytes]:
        file = content.extractfile(members[name])
        assert file is not None  # noqa: S101 (only regular files are listed)
        return file

    return Listing({name: member.size for name, member in members.items()}, frozenset(folders), read)


def _link(source: Path, name: PurePosixPath) -> PipelineError:
    return PipelineError(f"{source} holds the link or device {str(name)!r}; replace it with the file itself.")


def _name(raw: str) -> PurePosixPath:
    """A valid name: Windows' separators become slashes, bytes that are not UTF-8 are read as Windows-1252."""
    try:
        raw.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(raw).decode(_NOT_UTF8, errors="replace")
    return PurePosixPath(unicodedata.normalize("NFC", raw.replace("\\", "/")))


def _safe(source: Path, raw: str) -> PurePosixPath:
    name = _name(raw)
    if name.is_absolute() or ".." in name.parts or not name.parts or name.parts[0].endswith(":"):
        raise PipelineError(
            f"{source} holds the path {raw!r}, which leads out of the target folder. "
            "Do not trust such an archive; nothing was extracted."
        )
    return name


def _add(found: dict[PurePosixPath, T], name: PurePosixPath, item: T) -> None:
    """Add a file; a second one of the same name gets a number, so that none is lost."""
    number = 2
    unique = name
    while unique in found:
        unique = name.with_name(f"{name.stem}-{number}{name.suffix}")
        number += 1
    found[unique] = item
