"""Raw files in, their facts out: each is decoded by the function that serves, and hashed."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final, TypeAlias

import imagehash
from PIL import Image

from common.errors import PipelineError
from common.processor import cores
from common.progress import progress
from serving.contract.errors import ImageError
from serving.contract.preprocess import preprocess

_HASH_SIDE: Final = 224
THUMBNAIL_SIDE: Final = 32
"""Side of the grey thumbnail that confirms what a perceptual hash suggests, in pixels."""
_REASONS: Final = {
    "empty": "empty",
    "unsupported-image": "not an image",
    "broken-image": "undecodable",
    "image-too-large": "too large",
}


Pixels: TypeAlias = bytes  # `Inspected` has a field named bytes


@dataclass(frozen=True, slots=True)
class Inspected:
    """One file; `reason` is set if it cannot be used."""

    path: str
    label: str
    bytes: int
    reason: str = ""
    sha256: str = ""
    phash: int = 0
    width: int = 0
    height: int = 0
    thumbnail: Pixels = b""
    """Grey, `u8[32,32]`."""


def list_files(raw: Path) -> list[str]:
    """Every file below `raw`, relative to it, 2.jpg before 10.jpg.

    Raises:
        PipelineError: there are none.
    """
    if not raw.is_dir():
        raise PipelineError(f"There are no photos at {raw}. Fetch them first: make data.")
    names = [path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()]
    if not names:
        raise PipelineError(f"{raw} holds no files. Fetch the photos again: make data.")
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))


def inspect_all(raw: Path, names: list[str]) -> Iterator[Inspected]:
    """Inspect on all cores, in the order of `names`."""
    with ProcessPoolExecutor(cores(), _workers_ignoring_interrupts()) as pool:
        jobs = pool.map(inspect, [raw] * len(names), names, chunksize=32)
        try:
            with progress("prepare", len(names), "photos") as bar:
                for job in jobs:
                    bar.update()
                    yield job
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _workers_ignoring_interrupts() -> ForkServerContext:
    """A context whose workers ignore Ctrl-C from their first instruction; the parent ends them.

    A worker killed while it starts would break the pool with a traceback. Children inherit ignored signals.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    return multiprocessing.get_context("forkserver")


def _reason(error: ImageError) -> str:
    named = re.match(r"This is (?:an? )?(.+?), which is not supported", error.detail)
    return f"{named[1]}, not supported" if named else _REASONS[error.code]


def inspect(raw: Path, name: str) -> Inspected:
    """Decode and hash one file below `raw`, or give the reason why it cannot be used."""
    data = (raw / name).read_bytes()
    label = name.split("/", 1)[0]
    try:
        image = preprocess(data, _HASH_SIDE)
    except ImageError as error:
        return Inspected(name, label, len(data), reason=_reason(error))
    picture = Image.fromarray(image.pixels.transpose(1, 2, 0))
    perceptual = imagehash.phash(picture)
    return Inspected(
        path=name,
        label=label,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        phash=int(str(perceptual), 16),
        width=image.width,
        height=image.height,
        thumbnail=picture.convert("L")
        .resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
        .tobytes(),
    )
