"""Groups of photos in, the split of each out: train, validation or test, by a hash of the group.

Adding photos never moves earlier ones: the photos of an existing manifest keep their split.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

import pandas as pd

from common.manifest import read_manifest
from training.config import PrepareConfig
from training.place import Place

SPLITS: Final = ("train", "validation", "test")
SMALL_SET: Final = 1000
"""Below this many photos the splits are divided exactly, by rank of the hash."""


def assign_splits(kept: pd.DataFrame, config: PrepareConfig, earlier: dict[str, str]) -> pd.Series:
    """Split of each photo by the hash of its group, within each class; `earlier` photos keep theirs.

    Args:
        kept: Columns label, group and sha256.
        config: Shares and salt.
        earlier: Split by sha256, from an earlier manifest.
    """
    split = pd.Series("", index=kept.index, dtype=object)
    known = kept["sha256"].map(earlier)
    inherited = kept.assign(known=known).groupby("group")["known"].transform("first")
    fixed = known.fillna(inherited)  # a new near-duplicate follows the earlier photo
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
    """Fill test, then validation, then train with groups in order of rank, on top of what is `taken`."""
    count = {split: taken.get(split, 0) for split in SPLITS}
    total = sum(sizes.values()) + sum(count.values())
    goal = {split: max(1, round(shares[split] * total)) for split in ("validation", "test")}
    chosen = {}
    for group in sorted(sizes, key=lambda name: rank[name]):
        best = next((split for split in ("test", "validation") if count[split] < goal[split]), "train")
        chosen[group] = best
        count[best] += sizes[group]
    return chosen


def split_settings(config: PrepareConfig) -> dict[str, object]:
    """The settings that decide the split; the summary records them."""
    return {
        "salt": config.salt,
        "validation_share": config.validation_share,
        "test_share": config.test_share,
    }


def earlier_splits(place: Place, config: PrepareConfig) -> dict[str, str]:
    """Split by sha256 from an earlier manifest, if that has the same salt and shares."""
    if not place.manifest.exists() or not place.summary.exists():
        return {}
    if json.loads(place.summary.read_text()).get("settings") != split_settings(config):
        return {}
    earlier = read_manifest(place.manifest)
    return dict(zip(earlier["sha256"], earlier["split"], strict=True))
