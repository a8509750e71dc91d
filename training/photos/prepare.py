"""Raw photos in, manifest and splits out.

Every file is decoded by the very function that serves; what cannot be used is listed with its
reason. Near copies are found by perceptual hash and never part: a group is in one split. The split
is a hash of the group, so that adding photos moves no old one: where a manifest exists already, its
photos keep their split.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final

import imagehash
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common import files
from common.cores import cores
from common.errors import PipelineError
from common.progress import progress
from serving.contract.errors import ImageError
from serving.contract.preprocess import preprocess
from training import place
from training.config import PrepareConfig

SPLITS: Final = ("train", "validation", "test")
SMALL_SET: Final = 1000
"""Under this many photos the splits are divided exactly, by rank of the hash."""
_HASH_SIDE: Final = 224
_HASH_BITS: Final = 64
_COLUMNS: Final = ["path", "label", "split", "sha256", "phash", "group", "width", "height", "bytes"]
_REASONS: Final = {
    "empty": "empty",
    "unsupported-image": "not an image",
    "broken-image": "undecodable",
    "image-too-large": "too large",
}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What one file holds; `reason` is set when it cannot be used."""

    path: str
    label: str
    bytes: int
    reason: str = ""
    sha256: str = ""
    phash: int = 0
    width: int = 0
    height: int = 0


def prepare(config: PrepareConfig, raw: Path = place.RAW, out: Path = place.PREPARED) -> dict[str, object]:
    """Check, group and split the photos below `raw`; write the manifest to `out`.

    Returns:
        The summary that is also written: counts by split, class and reason.

    Raises:
        PipelineError: no photos, a class without usable ones, or shares that leave none to train on.
    """
    if config.validation_share + config.test_share >= 1:
        raise PipelineError("validation_share and test_share together leave nothing to train on.")
    names = _list(raw)
    inspected = list(_inspect_all(raw, names))
    kept = pd.DataFrame([row for row in inspected if not row.reason])
    dropped = pd.DataFrame(
        [(r.path, r.label, r.bytes, r.reason) for r in inspected if r.reason],
        columns=["path", "label", "bytes", "reason"],
    )
    _check_classes({row.label for row in inspected}, kept)
    kept["group"] = group_near_copies(kept["phash"].to_numpy(np.uint64), config.near_duplicate_bits)
    kept, conflicting = _without_conflicts(kept)
    dropped = pd.concat([dropped, conflicting], ignore_index=True).sort_values("path")
    _check_classes({row.label for row in inspected}, kept)
    kept["group"] = _stable_group_names(kept)
    kept["split"] = assign_splits(kept, config, _earlier_splits(out, config))
    kept["phash"] = [f"{value:016x}" for value in kept["phash"]]
    summary = _summarise(kept, dropped) | {"settings": _split_settings(config)}
    _check_splits(kept)
    with files.atomic_folder(out) as folder:
        kept.sort_values("path")[_COLUMNS].to_csv(folder / "manifest.csv", index=False)
        dropped.to_csv(folder / "dropped.csv", index=False)
        files.write_json(folder / "summary.json", summary)
    return summary


def _list(raw: Path) -> list[str]:
    if not raw.is_dir():
        raise PipelineError(f"There are no photos at {raw}. Fetch them first: make data.")
    names = [path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()]
    if not names:
        raise PipelineError(f"{raw} holds no files. Fetch the photos again: make data.")
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[str | int, ...]:
    """Sort key that puts 2.jpg before 10.jpg."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))


def _inspect_all(raw: Path, names: list[str]) -> Iterator[Inspected]:
    with ProcessPoolExecutor(cores(), _workers_deaf_to_interrupts()) as pool:
        jobs = pool.map(inspect, [raw] * len(names), names, chunksize=32)
        try:
            with progress("prepare", len(names), "photos") as bar:
                for job in jobs:
                    bar.update()
                    yield job
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _workers_deaf_to_interrupts() -> ForkServerContext:
    """Context whose workers never see Ctrl-C, from their first instruction: the parent ends them.

    A worker killed by it while it starts would break the pool, with a trace. What is ignored is inherited.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    return multiprocessing.get_context("forkserver")


def inspect(raw: Path, name: str) -> Inspected:
    """Decode one file below `raw` and hash it, or say why it cannot be used."""
    data = (raw / name).read_bytes()
    label = name.split("/", 1)[0]
    try:
        image = preprocess(data, _HASH_SIDE)
    except ImageError as error:
        return Inspected(name, label, len(data), reason=_REASONS[error.code])
    perceptual = imagehash.phash(Image.fromarray(image.pixels.transpose(1, 2, 0)))
    return Inspected(
        path=name,
        label=label,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        phash=int(str(perceptual), 16),
        width=image.width,
        height=image.height,
    )


def group_near_copies(hashes: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.int32]:
    """Group number of each hash: two hashes that differ in at most `bits` bits share one, transitively.

    Candidates come from `bits + 1` bands of the hash: by the pigeonhole principle two hashes that
    near agree in one band. Equal hashes are collapsed first.
    """
    values, inverse = np.unique(hashes, return_inverse=True)
    edges: list[npt.NDArray[np.int64]] = []
    bounds = np.linspace(0, _HASH_BITS, bits + 2).astype(int)
    for low, high in itertools.pairwise(bounds):
        band = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        ends = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                distance = np.bitwise_count(values[bucket][:, None] ^ values[bucket][None, :])
                a, b = np.nonzero(np.triu(distance <= bits, k=1))
                edges.append(np.stack([bucket[a], bucket[b]]))
    joined = np.concatenate(edges, axis=1) if edges else np.empty((2, 0), np.int64)
    graph = coo_array((np.ones(joined.shape[1], bool), (joined[0], joined[1])), shape=(len(values),) * 2)
    groups = connected_components(graph, directed=False)[1]
    return np.asarray(groups[inverse], np.int32)


def _without_conflicts(kept: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out near copies that are filed under different labels: one of the labels is wrong."""
    conflict = kept.groupby("group")["label"].transform("nunique") > 1
    dropped = kept.loc[conflict, ["path", "label", "bytes"]].assign(reason="conflicting duplicate")
    return kept.loc[~conflict].copy(), dropped


def _stable_group_names(kept: pd.DataFrame) -> pd.Series:
    """Name a group by the content of its first photo in natural order of names."""
    return kept.groupby("group")["sha256"].transform("first").str[:16]


def assign_splits(kept: pd.DataFrame, config: PrepareConfig, earlier: dict[str, str]) -> pd.Series:
    """Split of each photo by the hash of its group, within each class; `earlier` photos keep theirs.

    Args:
        kept: Columns label, group and sha256.
        config: Shares and salt.
        earlier: Split by sha256, as an earlier manifest has it.
    """
    split = pd.Series("", index=kept.index, dtype=object)
    known = kept["sha256"].map(earlier)
    inherited = kept.assign(known=known).groupby("group")["known"].transform("first")
    fixed = known.fillna(inherited)  # a new near copy follows the old photo
    split[fixed.notna()] = fixed[fixed.notna()]
    shares = {"validation": config.validation_share, "test": config.test_share}
    for _, members in kept.groupby("label"):
        fresh = members[split[members.index] == ""]
        rank = {group: _position(group, config.salt) for group in fresh["group"].unique()}
        if len(kept) < SMALL_SET:
            taken = _counts(split[members.index])
            chosen = _divide_exactly(_counts(fresh["group"]), rank, shares, taken)
        else:
            chosen = {group: _by_position(value, config) for group, value in rank.items()}
        split[fresh.index] = fresh["group"].map(chosen)
    return split


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}


def _position(group: str, salt: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a group."""
    digest = hashlib.sha256(f"{salt}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_position(position: float, config: PrepareConfig) -> str:
    if position < config.test_share:
        return "test"
    return "validation" if position < config.test_share + config.validation_share else "train"


def _divide_exactly(
    sizes: dict[str, int], rank: dict[str, float], shares: dict[str, float], taken: dict[str, int]
) -> dict[str, str]:
    """Fill test, then validation, then train with groups in order of rank, beyond what is `taken`."""
    count = {split: taken.get(split, 0) for split in SPLITS}
    total = sum(sizes.values()) + sum(count.values())
    goal = {split: max(1, round(shares[split] * total)) for split in ("validation", "test")}
    chosen = {}
    for group in sorted(sizes, key=lambda name: rank[name]):
        best = next((split for split in ("test", "validation") if count[split] < goal[split]), "train")
        chosen[group] = best
        count[best] += sizes[group]
    return chosen


def _split_settings(config: PrepareConfig) -> dict[str, object]:
    return {
        "salt": config.salt,
        "validation_share": config.validation_share,
        "test_share": config.test_share,
    }


def _earlier_splits(out: Path, config: PrepareConfig) -> dict[str, str]:
    """Split by sha256 of an earlier manifest, if it was made with the same salt and shares."""
    manifest, summary = out / "manifest.csv", out / "summary.json"
    if not manifest.exists() or not summary.exists():
        return {}
    if json.loads(summary.read_text()).get("settings") != _split_settings(config):
        return {}
    earlier = pd.read_csv(manifest, usecols=["sha256", "split"])
    return dict(zip(earlier["sha256"], earlier["split"], strict=True))


def _check_classes(labels: set[str], kept: pd.DataFrame) -> None:
    missing = sorted(labels - set(kept["label"] if len(kept) else []))
    if missing:
        raise PipelineError(
            f"The class {missing[0]!r} has no usable photo: each of its files is empty, broken, no image "
            "or filed under another class too. Add photos, or remove the class folder."
        )
    if len(labels) < 2:
        raise PipelineError(
            f"There is one class only ({', '.join(labels)}); a classifier needs at least two."
        )


def _check_splits(kept: pd.DataFrame) -> None:
    table = pd.crosstab(kept["label"], kept["split"]).reindex(columns=SPLITS, fill_value=0)
    for label, row in table.iterrows():
        short = [split for split in SPLITS if row[split] == 0]
        if short:
            raise PipelineError(
                f"The class {label!r} has {row.sum()} usable photos, too few for a {short[0]} split. "
                "Add photos: about ten of a class are the least, hundreds are useful."
            )


def _summarise(kept: pd.DataFrame, dropped: pd.DataFrame) -> dict[str, object]:
    labels = sorted(kept["label"].unique())
    table = pd.crosstab(kept["split"], kept["label"]).reindex(
        index=list(SPLITS), columns=labels, fill_value=0
    )
    sizes = kept["group"].value_counts()
    return {
        "files": len(kept) + len(dropped),
        "kept": len(kept),
        "dropped": len(dropped),
        "dropped_by_reason": {
            str(k): int(v) for k, v in dropped["reason"].value_counts().sort_index().items()
        },
        "photos": {split: {label: int(table.loc[split, label]) for label in labels} for split in SPLITS},
        "near_duplicate_groups": int((sizes > 1).sum()),
        "photos_in_near_duplicate_groups": int(sizes[sizes > 1].sum()),
        "labels": labels,
    }
