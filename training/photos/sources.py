"""A source in, raw photos out: `data/raw/<label>/<file>` and `data/fetch.json`.

A source is the public archive, Kaggle, another URL, a local zip or tar, a folder, a table of photos and
labels, or pictures from `training.photos.drawn`. Earlier photos stay until the new ones are complete.
`training.photos.adding` adds to them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from common import files
from common.errors import PipelineError
from common.photos import is_leftover
from common.progress import progress
from training.config import FetchConfig
from training.photos import reviews, table
from training.photos.download import download
from training.photos.drawn import draw_dataset
from training.photos.layout import OTHER_SOURCES, Layout, understand
from training.photos.listing import Listing, listed
from training.photos.report import Report, describe
from training.photos.reviews import Review
from training.place import Place

ADDRESSES: Final = {
    "microsoft": "https://download.microsoft.com/download/3/E/1/"
    "3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    "kaggle": "https://www.kaggle.com/api/v1/datasets/download/shaunthesheep/microsoft-catsvsdogs-dataset",
}
_SHA256: Final = {"microsoft": "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"}
"""Of the archive as GoMLX's example of Cats vs Dogs has it too. Kaggle packs a file of its own."""


def fetch(config: FetchConfig, place: Place, *, dry_run: bool = False) -> Report | None:
    """Fetch the photos of `config.source` into `place.raw`, after printing what was understood of it.

    Args:
        config: The source, and whether its test split stays one.
        place: Where the photos go.
        dry_run: Only print what was understood; then there is no report.

    Raises:
        PipelineError: the source cannot be reached or read, or does not hold labelled photos.
    """
    source = config.source
    if source == "sample":
        report = _install_drawn(config, place)
    else:
        kind, path = located(source, place)
        with understood(path) as (listing, layout, review):
            print(layout.described())
            if review:
                raise PipelineError(
                    f"{path.name} is the export of a review: photos to add to others. Fetch all photos "
                    f"first, and add it then: make data ADD={source}"
                )
            if dry_run:
                return None
            report = _install(kind, path, listing, layout, place)
        if config.keep_split:
            report = replace(report, kept_test=_kept_test(layout))
    files.write_json(place.fetch_report, report)
    return report


def located(source: str, place: Place) -> tuple[str, Path]:
    """The kind of source, and its file or folder on this machine."""
    if source in ADDRESSES or source.startswith(("http://", "https://")):
        archive = download(ADDRESSES.get(source, source), place.downloads)
        found = files.sha256(archive) if source in _SHA256 else ""
        if found != _SHA256.get(source, ""):
            archive.unlink()
            raise PipelineError(
                f"{archive.name} came with SHA-256 {found[:12]}…, not {_SHA256[source][:12]}…: it was "
                f"damaged on the way, or {source} has another file now. It is deleted; run it again, or name "
                f"its address to take it as it is: DATA={ADDRESSES[source]}"
            )
        return (source if source in ADDRESSES else "url"), archive
    local = Path(source).expanduser()
    if local.is_dir():
        return "folder", local.resolve()
    if local.is_file():
        return ("table" if local.suffix.lower() in table.SUFFIXES else "archive"), local.resolve()
    raise PipelineError(
        f"The source {source!r} is neither a known name nor an existing file or folder. " + OTHER_SOURCES
    )


@contextmanager
def understood(path: Path, known: Collection[str] = ()) -> Iterator[tuple[Listing, Layout, Review | None]]:
    """The files of a source and their layout, and the review that it is the export of, if it is.

    A table of labels is preferred to names, if the source has one.
    """
    only = PurePosixPath(path.name) if path.is_file() and path.suffix.lower() in table.SUFFIXES else None
    with listed(path.parent if only else path) as listing:
        if (not only or only.name == reviews.TABLE) and (review := reviews.find(listing)):
            yield listing, review.layout, review
            return
        tables = [only] if only else [name for name in listing.sizes if _may_be_table(name)]
        for name in tables:
            with listing.open(name) as file:
                layout = table.from_table(name, file.read(), listing.sizes.keys())
            if layout:
                yield listing, layout, None
                return
        if only:
            raise PipelineError(
                f"{only} names no photos with labels: expected a header, a column that names photos in its "
                "folder or below, and a column label."
            )
        yield listing, understand(listing.sizes.keys(), listing.folders, known), None


def _may_be_table(name: PurePosixPath) -> bool:
    return name.suffix.lower() in table.SUFFIXES and not is_leftover(name)


def _kept_test(layout: Layout) -> list[str]:
    if not layout.test:
        raise PipelineError(
            "fetch.keep_split is set, but the source has no test split: expected a folder test with a folder "
            "for each class. Unset it, and the photos are split here."
        )
    return sorted({target.parts[1] for target in layout.test})


def _install_drawn(config: FetchConfig, place: Place) -> Report:
    with files.atomic_folder(place.raw) as folder:
        draw_dataset(folder, config.sample_per_class, config.sample_seed)
        return describe("sample", "drawn", folder)


def _install(kind: str, path: Path, listing: Listing, layout: Layout, place: Place) -> Report:
    """Copy the photos to a new folder, describe it and replace the raw photos with it."""
    with files.atomic_folder(place.raw) as folder:
        check_space(sum(listing.sizes[name] for name in layout.targets), folder)
        with progress("copy", len(layout.targets), "files") as bar:
            for name in listing.sizes:
                if name in layout.targets:
                    listing.copy(name, folder / layout.targets[name])
                    bar.update()
        report = describe(kind, path.name, folder)
        if path.is_file() and kind != "table":
            report = replace(report, sha256=files.sha256(path), bytes=path.stat().st_size)
    return report


def check_space(needed_bytes: int, folder: Path) -> None:
    """Check, before anything is written, that the photos fit on the disk."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise PipelineError(
            f"The photos take {needed_bytes / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free. "
            "Free some disk space and run it again."
        )
