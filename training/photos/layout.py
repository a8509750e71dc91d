"""Find the class folders, however the photos are packed; `archive` and `sources` use it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from common.errors import PipelineError
from common.photos import label_of

OTHER_SOURCES: Final = (
    "Other sources: DATA=path/to.zip, DATA=path/to/folder (one sub-folder per class), "
    "DATA=kaggle, DATA=https://….zip, or DATA=sample (drawn pictures, to try the pipeline)."
)


def class_root(photos: Iterable[PurePosixPath]) -> PurePosixPath:
    """The folder whose sub-folders are the classes: the one with the most folders of photos in it.

    Raises:
        PipelineError: no photo is in a sub-folder.
    """
    folders = {path.parent for path in photos if len(path.parts) > 1}
    if not folders:
        raise PipelineError(
            "There are no class folders: expected one folder of photos per class, "
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
        PipelineError: a folder has no photos, there is only one class, or two differ only in case.
    """
    counts = Counter(used)
    empty = sorted(folders - counts.keys())
    if empty:
        raise PipelineError(f"The class folder {empty[0]!r} has no photos. Add some, or remove the folder.")
    if len(counts) < 2:
        raise PipelineError(
            f"There is only one class ({', '.join(counts)}); a classifier needs at least two. "
            "Add a folder of another class."
        )
    labels = {name: label_of(name) for name in counts}
    if len(set(labels.values())) < len(labels):
        raise PipelineError(
            f"Two class folders differ only in case: {', '.join(sorted(labels))}. Merge or rename them."
        )
    return labels


def check_space(needed_bytes: int, folder: Path) -> None:
    """Check, before anything is written, that the photos fit on the disk.

    Raises:
        PipelineError: they do not fit.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise PipelineError(
            f"The photos take {needed_bytes / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free. "
            "Free some disk space and run it again."
        )
