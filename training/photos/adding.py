"""More photos in, alongside those of `data/raw`: in folders of their own below their classes.

The source is any that `training.photos.sources` takes, or what a service has collected: its review or
feedback database, what these export, or the service itself. What people labelled of a service's random sample
becomes the production test set, in folders of its own.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from common import files
from common.errors import PipelineError
from common.production import PRODUCTION, since
from training.photos import collected, report, sources
from training.photos.layout import Layout
from training.photos.listing import Listing
from training.photos.report import FEEDBACK, REVIEW, Batch, Report
from training.photos.reviews import Review
from training.place import Place

_ADDED: Final = "added"
_There: TypeAlias = Mapping[str, list[PurePosixPath]]
"""Files below `data/raw`, by the digest of their content."""


def add(source: str, place: Place, *, dry_run: bool = False) -> Report | None:
    """Add the photos of another source to those in `place.raw`, after printing what was understood of it.

    Photos that are there already, with the same bytes and class, are not added again; a source of only such
    photos changes nothing. Where people now answer otherwise on a photo that a service collected, its earlier
    label goes.

    Raises:
        PipelineError: there are no photos yet, the source cannot be used, or it has another class.
    """
    files.restore_folder(place.raw)
    if not place.fetch_report.exists() or not place.raw.is_dir():
        raise PipelineError("There are no photos to add to. Fetch some first: make data DATA=path/to/folder.")
    earlier = report.read(place.fetch_report).present(place.raw)
    known = sorted(path.name for path in place.raw.iterdir() if path.is_dir())
    with (
        _gathered(source, place) as (kind, name, path),
        sources.understood(path, known) as (listing, layout, review),
    ):
        print(layout.described())
        _check_labels(layout, known)
        if dry_run:
            return None
        return _Addition(place, earlier, listing, layout, review).install(REVIEW if review else kind, name)


def _check_labels(layout: Layout, known: list[str]) -> None:
    unknown = sorted(layout.counts.keys() - set(known))
    if unknown:
        raise PipelineError(
            f"{unknown[0]!r} is not one of the classes ({', '.join(known)}). Rename the folder or "
            "label, or, to train on more classes, fetch all photos again: make data DATA=path/to/all."
        )


@contextmanager
def _gathered(source: str, place: Place) -> Iterator[tuple[str, str, Path]]:
    """Kind and name of a source, and its folder or file; what a service has collected is exported first."""
    local, folder = Path(source).expanduser(), place.raw.with_name(f"{place.raw.name}.collected")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if collected.is_service(source):
            folder.mkdir(parents=True)
            collected.download(source, folder / "review.zip")
            yield REVIEW, collected.name_of(source), folder / "review.zip"
        elif local.is_file() and (kind := collected.kind_of(local)):
            collected.export(kind, local, folder)
            yield kind, local.name, folder
        else:
            kind, path = sources.located(source, place)
            yield kind, path.name, path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Addition:
    """The photos of one source on their way into `data/raw`."""

    def __init__(
        self, place: Place, earlier: Report, listing: Listing, layout: Layout, review: Review | None
    ) -> None:
        self._place, self._earlier = place, earlier
        self._listing, self._layout, self._review = listing, layout, review

    def install(self, kind: str, name: str) -> Report:
        """Replace the raw photos with a folder of them and the new ones; return what there is then.

        The record is written before the folder is replaced, because a production folder without a record
        would be trained on. What is then in no folder leaves the record afterwards.
        """
        raw = self._place.raw
        there = self._there()
        new, outdated = self._new(there), self._outdated(kind, there)
        staged = raw.with_name(f"{raw.name}.{_ADDED}")
        if not new and not outdated:
            count = len(self._layout.targets)
            print(f"nothing new: all {count:,} photos have been added already" if count else "nothing to add")
            return self._earlier
        shutil.rmtree(staged, ignore_errors=True)
        try:
            sources.check_space(sum(self._listing.sizes[file] for file in new), raw)
            staged.mkdir()
            for file, target in new.items():
                self._listing.copy(file, staged / self._part(file) / target)
            batch = self._batch(kind, name, staged, list(new))
            with files.atomic_folder(raw) as folder:
                shutil.copytree(raw, folder, copy_function=_link, dirs_exist_ok=True)
                for photo in outdated:
                    (folder / photo).unlink()
                for part in batch.files:
                    for label in (staged / part.partition("-")[0]).iterdir():
                        to = folder / label.name / part  # left empty, if all of it was withdrawn earlier
                        shutil.copytree(label, to, copy_function=os.replace, dirs_exist_ok=True)
                added = [*self._earlier.added, batch] if new else self._earlier.added
                now = replace(
                    report.describe(self._earlier.source, f"{self._earlier.name} + {name}", folder),
                    kept_test=self._earlier.kept_test,
                    production=report.production_folders(added),
                    added=added,
                )
                files.write_json(self._place.fetch_report, now)
            now = now.present(raw)
            files.write_json(self._place.fetch_report, now)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        self._print(batch, len(outdated))
        return now

    def _part(self, file: PurePosixPath) -> str:
        return PRODUCTION if file in self._layout.production else _ADDED

    def _there(self) -> _There:
        """The photos in `data/raw` by content, those that may be in the source by their size."""
        raw = self._place.raw
        sizes = {self._listing.sizes[file] for file in self._contents}
        there: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
        for path in raw.glob("*/**/*"):
            if path.is_file() and path.stat().st_size in sizes:
                there[files.sha256(path)].append(PurePosixPath(path.relative_to(raw)))
        return there

    def _new(self, there: _There) -> dict[PurePosixPath, PurePosixPath]:
        """The photos that are not there yet, with their targets; none of production is added to train."""
        new = {}
        for file, target in self._layout.targets.items():
            found = {(path.parts[0], self._part_of(path)) for path in there.get(self._contents[file], [])}
            wanted = (target.parts[0], self._part(file))
            if wanted not in found and (
                wanted[1] == PRODUCTION or PRODUCTION not in {part for _, part in found}
            ):
                new[file] = target
        return new

    def _outdated(self, kind: str, there: _There) -> list[PurePosixPath]:
        """The photos that a service collected earlier and of which people now say something else.

        A review corrects reviews and feedback, feedback only feedback, and neither the other photos. What is
        said of a photo outside of the random sample does not change one of production.
        """
        corrected = {REVIEW: (REVIEW, FEEDBACK), FEEDBACK: (FEEDBACK,)}.get(kind, ())
        folders = {name for batch in self._earlier.added if batch.source in corrected for name in batch.files}
        said: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for file, target in self._layout.targets.items():
            said[self._contents[file], self._part(file)].add(target.parts[0])
        for file in self._apart:
            for part in (PRODUCTION, _ADDED):
                said[self._contents[file], part] |= set()
        return [
            path
            for (content, part), labels in said.items()
            for path in there.get(content, [])
            if path.parts[1] in folders and self._part_of(path) == part and path.parts[0] not in labels
        ]

    @property
    def _apart(self) -> list[PurePosixPath]:
        """The photos of a review that have no label."""
        return [file for names in self._review.apart.values() for file in names] if self._review else []

    @cached_property
    def _contents(self) -> dict[PurePosixPath, str]:
        """The digest of each photo of the source."""
        contents = {}
        for file in [*self._layout.targets, *self._apart]:
            with self._listing.open(file) as content:
                contents[file] = files.sha256_of(content)
        return contents

    def _part_of(self, path: PurePosixPath) -> str:
        """Of a photo in `data/raw`."""
        return PRODUCTION if path.parts[1] in self._earlier.production else _ADDED

    def _batch(self, kind: str, name: str, staged: Path, new: list[PurePosixPath]) -> Batch:
        parts = {part.name: report.describe("", "", part) for part in sorted(staged.iterdir())}
        return Batch(
            kind,
            name,
            report.describe("", "", staged).sha256,
            datetime.now(UTC).date(),
            {f"{part}-{found.sha256[:8]}": found.files for part, found in parts.items()},
            self._review.answers(new, self._layout.counts) if self._review else None,
        )

    def _print(self, batch: Batch, outdated: int) -> None:
        """What came: for training, for production's test set, apart, and how much was there already."""
        answers = batch.review
        days = f", answers of {answers.first} to {answers.last}" if answers and answers.first else ""
        begins = since(self._place.fetch_report)
        print(f"added from {batch.source} {batch.name}{days}:")
        for folder, counts in batch.files.items():
            listed = ", ".join(f"{label} {count:,}" for label, count in counts.items())
            what = (
                f"for the production test set, which begins on {begins}"
                if folder.startswith(PRODUCTION)
                else "for training"
            )
            print(f"  {what}: {listed}")
        if answers and answers.apart:
            print("  kept apart: " + ", ".join(f"{n:,} {reason}" for reason, n in answers.apart.items()))
        there = len(self._layout.targets) - sum(Counter(batch.files[f]).total() for f in batch.files)
        if there:
            print(f"  already there: {there:,}")
        if outdated:
            print(f"  removed, since people now answer otherwise: {outdated:,}")


def _link(source: str, target: str) -> None:
    """Another name for the same file, or a copy where the disk does not allow that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
