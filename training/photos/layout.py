"""Names of files in, the label of each photo out, however the photos are laid out; `sources` copies them.

Three layouts are understood here: a folder per class; an owner's splits (`train/`, `val/`, `test/`) with a
folder per class in each; and labels in the file names (`cat.0.jpg`), also in splits. `training.photos.table`
reads a fourth: a table of names and labels.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from common.errors import PipelineError
from common.photos import SUFFIXES, is_leftover, label_of

OTHER_SOURCES: Final = (
    "Other sources: DATA=path/to.zip, DATA=path/to/folder (one sub-folder per class), "
    "DATA=path/to/labels.csv, DATA=kaggle, DATA=https://….zip, or DATA=sample (drawn pictures, to try the "
    "pipeline)."
)
_SPLITS: Final = {
    "train": re.compile(r"(?i)train(ing)?([ _-]?(set|data|images))?\d*"),
    "validation": re.compile(r"(?i)(val(id(ation)?)?|dev)([ _-]?(set|data|images))?\d*"),
    "test": re.compile(r"(?i)test(ing)?([ _-]?(set|data|images))?\d*"),
}
_NUMBERED: Final = re.compile(r"(.*?[^\W\d_].*?)[\s._-]*\(?\d+\)?")
"""`cat.0`, `cat_001`, `cat (3)`: a name with a letter in it, then a number."""
_NO_LABELS: Final = frozenset(
    {
        *(
            "img",
            "imgp",
            "image",
            "images",
            "photo",
            "pic",
            "picture",
            "dsc",
            "dscn",
            "dscf",
            "pxl",
            "mvi",
            "p",
        ),
        *("scan", "frame", "file", "screenshot", "untitled", "whatsapp image"),
    }
)
"""What cameras and tools call any photo."""
_MAYBE: Final = frozenset(SUFFIXES) | {".heic", ".heif", ""}


@dataclass(frozen=True, slots=True)
class Layout:
    """What was understood of a source."""

    how: str
    """The layout, for a person."""
    targets: Mapping[PurePosixPath, PurePosixPath]
    """For each photo, its path below `data/raw`: the label, then a path that is unique within it."""
    test: frozenset[PurePosixPath] = frozenset()
    """The targets that the owner set aside as a test split."""
    left_out: Mapping[str, list[PurePosixPath]] = field(default_factory=dict)
    """Files that are not copied, by reason."""
    production: frozenset[PurePosixPath] = frozenset()
    """The files, by their names in the source, that are the production test set."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of files by label."""
        return dict(sorted(Counter(target.parts[0] for target in self.targets.values()).items()))

    def described(self) -> str:
        """What was understood, for a person to read before anything is copied."""
        width = max(map(len, self.counts), default=0)
        lines = [self.how + ":", *(f"  {label:{width}}  {n:,} files" for label, n in self.counts.items())]
        for reason, names in self.left_out.items():
            lines.append(f"  left out: {len(names):,} {reason}, such as {names[0]}")
        return "\n".join(lines)


def understand(
    names: Collection[PurePosixPath],
    folders: Iterable[PurePosixPath] = (),
    known: Collection[str] = (),
) -> Layout:
    """Find the label of each file.

    Args:
        names: Every file, relative to the source.
        folders: Every folder, to find class folders without photos.
        known: The classes that there are already: one of them alone will do.

    Raises:
        PipelineError: the names do not tell the classes, or there is only one; the text says what was seen.
    """
    left_out: dict[str, list[PurePosixPath]] = defaultdict(list)
    files: list[PurePosixPath] = []
    for name in names:
        (left_out["system files"] if is_leftover(name) else files).append(name)
    photos = [name for name in files if name.suffix.lower() in _MAYBE] or files
    if not photos:
        raise PipelineError("There are no photos, and so no class folders. " + OTHER_SOURCES)
    root = _shared_root(photos, known)
    inside = [name for name in files if name.is_relative_to(root)]
    parts = _parts(photos, root)
    if len(parts) > 1 and all(map(split_of, parts)) and any(split_of(part) == "train" for part in parts):
        layout = _owner_splits(root, inside, sorted(parts), left_out)
    elif len(parts) > 1 or (parts and {label_of(part) for part in parts} <= set(known)):
        layout = _class_folders(root, inside, parts, folders, left_out)
    else:
        candidates = set(photos)
        layout = _by_names(root, [name for name in inside if name in candidates], known)
    if not known:
        _check_classes(layout.counts)
    spoken_of = layout.targets.keys() | {name for listed in left_out.values() for name in listed}
    left_out["files outside of the photos' folders"] = [name for name in files if name not in spoken_of]
    return Layout(layout.how, layout.targets, layout.test, {k: v for k, v in left_out.items() if v})


def split_of(folder: str) -> str | None:
    """The split that a folder's name stands for: train, validation or test; None for any other name."""
    return next((split for split, pattern in _SPLITS.items() if pattern.fullmatch(folder)), None)


def _parts(photos: Iterable[PurePosixPath], root: PurePosixPath) -> set[str]:
    """Names of the folders directly below `root` that hold photos, at any depth."""
    depth = len(root.parts)
    return {name.parts[depth] for name in photos if name.is_relative_to(root) and len(name.parts) > depth + 1}


def _shared_root(photos: list[PurePosixPath], keep: Collection[str] = ()) -> PurePosixPath:
    """The deepest folder that all photos share, but for fewer that lie on the way to it.

    Args:
        photos: At least one.
        keep: Folder names that are not entered, because they are known to be classes.
    """
    root = PurePosixPath()
    while True:
        depth = len(root.parts)
        inside = [name for name in photos if name.is_relative_to(root)]
        direct = sum(len(name.parts) == depth + 1 for name in inside)
        parts = _parts(inside, root)
        if len(parts) != 1 or 2 * direct >= len(inside) or {*parts, *map(label_of, parts)} & set(keep):
            return root
        root /= parts.pop()


def _class_folders(
    root: PurePosixPath,
    files: list[PurePosixPath],
    parts: set[str],
    folders: Iterable[PurePosixPath],
    left_out: dict[str, list[PurePosixPath]],
) -> Layout:
    """The class is the first level below the root; deeper folders belong to their class."""
    depth = len(root.parts)
    empty = sorted(
        folder.name
        for folder in folders
        if folder.parent == root
        and not is_leftover(folder)
        and not any(name.is_relative_to(folder) for name in files)
    )
    if empty:
        raise PipelineError(f"The class folder {empty[0]!r} has no photos. Add some, or remove the folder.")
    labels = labels_of(parts)
    targets = {}
    for name in files:
        first, *rest = name.parts[depth:]
        if rest and first in labels:
            targets[name] = PurePosixPath(labels[first], *rest)
        else:
            left_out["files alongside the class folders"].append(name)
    return Layout(f"class folders{_below(root)}", targets)


def _owner_splits(
    root: PurePosixPath,
    files: list[PurePosixPath],
    parts: list[str],
    left_out: dict[str, list[PurePosixPath]],
) -> Layout:
    """The owner's splits, joined: each holds a folder per class, or names that begin with a class."""
    inside = {part: [name for name in files if name.is_relative_to(root / part)] for part in parts}
    known = {
        label_of(name)
        for part, names in inside.items()
        if len(found := _parts(names, _shared_root(names))) > 1
        for name in found
    }
    targets: dict[PurePosixPath, PurePosixPath] = {}
    test = set()
    for part, names in inside.items():
        classes = [name for name in names if label_of(name.parts[-2]) in known] if known else []
        top = _shared_root(names, {name.parts[-2] for name in classes})
        labels = labels_of(_parts(names, top))
        for name in names:
            first, *rest = name.relative_to(top).parts
            label = labels.get(first) if rest else _label_in(name)
            if label is None or (known and label not in known):
                left_out[f"files of {part} without a label"].append(name)
                continue
            targets[name] = PurePosixPath(label, part, *(rest or [first]))
            if split_of(part) == "test":
                test.add(targets[name])
    if not targets:
        raise PipelineError(_seen(files))
    return Layout(f"the splits {', '.join(parts)}{_below(root)}, joined", targets, frozenset(test))


def _by_names(root: PurePosixPath, photos: list[PurePosixPath], known: Collection[str]) -> Layout:
    """Labels in the file names, as in `cat.0.jpg`: every name must have one, a known one alone will do."""
    labels = {name: _label_in(name) for name in photos}
    counts = Counter(labels.values())
    plausible = len(counts) > 1 and min(counts.values()) > 1
    if None in counts or not (plausible or (counts and counts.keys() <= set(known))):
        raise PipelineError(_seen(photos))
    targets = {name: PurePosixPath(label, name.name) for name, label in labels.items() if label}
    return Layout(f"classes from the file names{_below(root)}", targets)


def _label_in(name: PurePosixPath) -> str | None:
    found = _NUMBERED.fullmatch(name.stem)
    label = label_of(found[1]) if found else None
    return None if label in _NO_LABELS else label


def labels_of(folders: Collection[str]) -> dict[str, str]:
    """Label by folder name: the name in lower case.

    Raises:
        PipelineError: two names differ only in case.
    """
    labels = {name: label_of(name) for name in folders}
    if len(set(labels.values())) < len(labels):
        raise PipelineError(
            f"Two class folders differ only in case: {', '.join(sorted(labels))}. Merge or rename them."
        )
    return labels


def _check_classes(counts: Mapping[str, int]) -> None:
    if len(counts) < 2:
        raise PipelineError(
            f"There is only one class ({', '.join(counts)}); a classifier needs at least two. "
            "Add a folder of another class."
        )


def _below(root: PurePosixPath) -> str:
    return f" in {root}" if root.parts else ""


def _seen(photos: list[PurePosixPath]) -> str:
    """What was seen where the names tell no classes, and what was expected."""
    folders = sorted({str(name.parent) for name in photos})
    seen = f"{len(photos):,} photos lie in {', '.join(folders[:3])}, such as {photos[0].name}"
    if folders == ["."]:
        problem = f"There are no class folders: {seen.replace(' lie in .', ' lie in no folder')}"
    elif len(folders) == 1:
        problem = f"There is only one class ({folders[0]}), and a classifier needs at least two: {seen}"
    else:
        problem = f"The folders are not classes, and the file names do not begin with one: {seen}"
    return (
        f"{problem}. Expected one folder of photos per class (Cat/1.jpg, Dog/1.jpg), names that begin with "
        "the class (cat.1.jpg, dog.1.jpg), or a CSV file with the columns path and label. " + OTHER_SOURCES
    )
