"""Which folders are the classes, in whatever way people pack their photos. Archives and folders use it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from common.errors import PipelineError
from common.photos import label_of

OTHER_SOURCES: Final = (
    "Other sources: DATA=path/to.zip, DATA=path/to/folder (one sub-folder for each class), "
    "DATA=kaggle, DATA=https://….zip, or DATA=sample (pictures drawn here, to try the pipeline)."
)


def class_root(photos: Iterable[PurePosixPath]) -> PurePosixPath:
    """The folder whose sub-folders are the classes: the deepest one that all of them share.

    Raises:
        PipelineError: no photo is in a sub-folder.
    """
    folders = {path.parent for path in photos if len(path.parts) > 1}
    if not folders:
        raise PipelineError(
            "There are no class folders: expected one folder for each class with its photos in it, "
            "such as Cat/1.jpg and Dog/1.jpg. " + OTHER_SOURCES
        )
    roots = Counter(folder.parent for folder in folders)
    return min(roots, key=lambda root: (-roots[root], len(root.parts)))


def labels_of(folders: set[str], used: list[str]) -> dict[str, str]:
    """Label by folder name: the name in lower case.

    Args:
        folders: Names of the class folders.
        used: For each photo, the name of its folder.

    Raises:
        PipelineError: a folder without photos, one class only, or two that differ only in case.
    """
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


def check_space(needed_bytes: int, folder: Path) -> None:
    """Refuse to fill the disk halfway.

    Raises:
        PipelineError: less is free than is needed.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise PipelineError(
            f"The photos take {needed_bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. "
            "Make room and run it again."
        )
