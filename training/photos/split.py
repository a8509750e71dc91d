"""Groups of photos in, the split of each out: train, validation or test, by a hash of the group.

Production is a fourth split, of the photos that a review drew at random.

Adding photos never moves earlier ones: the photos of an existing manifest keep their split.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Final

import pandas as pd

from common.manifest import read_manifest
from common.production import PRODUCTION
from training.config import PrepareConfig
from training.photos.report import collected_folders, read_batches
from training.place import Place

SPLITS: Final = ("train", "validation", "test")
SMALL_CLASS: Final = 1000
"""A class with fewer photos is divided exactly, by rank of the hash."""


def assign_splits(kept: pd.DataFrame, config: PrepareConfig, known: pd.Series) -> pd.Series:
    """Split of each photo by the hash of its group, within each class; photos with a known split keep it.

    Args:
        kept: Columns label and group; the photos of a group with a known split have no other.
        config: Shares and salt.
        known: The split of each photo that has one already, else NaN.
    """
    split = pd.Series("", index=kept.index, dtype=object)
    inherited = kept.assign(known=known).groupby("group")["known"].transform("first")
    split[inherited.notna()] = inherited[inherited.notna()]  # a new near-duplicate follows the earlier photo
    shares = {"validation": config.validation_share, "test": config.test_share}
    for _, members in kept.groupby("label"):
        fresh = members[split[members.index] == ""]
        rank = {group: _position(group, config.salt) for group in fresh["group"].unique()}
        if len(members) < SMALL_CLASS:
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
    goal = {split: max(1, round(share * total)) if share else 0 for split, share in shares.items()}
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


def known_splits(kept: pd.DataFrame, config: PrepareConfig, place: Place) -> pd.Series:
    """The split of each photo that has one already, else NaN.

    That is production in the folders that hold it, then the test split of the photos' owner, if `fetch` kept
    it, and otherwise the split in an earlier manifest with the same salt and shares.
    """
    known = kept["sha256"].map(_earlier_splits(place, config)).astype(object)
    known = known.mask(known == PRODUCTION)  # the same photo elsewhere is not production
    for split, folders in (("test", owner_test(place)), (PRODUCTION, _listed(place, "production"))):
        known = known.mask(_inside(kept, folders), split)
    return known


def assign_all_splits(
    kept: pd.DataFrame, config: PrepareConfig, known: pd.Series, collected: pd.Series
) -> pd.Series:
    """As `assign_splits`, but what a service has collected is never in test.

    Such photos are those of which a model was unsure, or of which a caller says that it was wrong: with them
    the figures on test would be of another kind of photo each month.

    Args:
        kept: As for `assign_splits`.
        config: As for `assign_splits`.
        known: As for `assign_splits`.
        collected: Whether a service has collected the photo.
    """
    others = assign_splits(kept[~collected], config, known)
    known = known.reindex(kept.index).mask(~collected, others)
    return assign_splits(kept, replace(config, test_share=0.0), known) if collected.any() else others


def near_owner_test(kept: pd.DataFrame, known: pd.Series, place: Place) -> pd.Series:
    """The known splits; those near to the owner's test split are in train, from which they are dropped."""
    owners = _inside(kept, owner_test(place))
    near = owners.groupby(kept["group"]).transform("any") & ~owners
    return known[kept.index].mask(near, "train")


def collected_photos(kept: pd.DataFrame, place: Place) -> pd.Series:
    """Whether a service has collected each photo, for review or as feedback; production's are apart."""
    return _inside(kept, collected_folders(read_batches(place.fetch_report)))


def owner_test(place: Place) -> list[str]:
    """The folders, below each class, of the owner's test split; none if it is not kept."""
    return _listed(place, "kept_test")


def _listed(place: Place, name: str) -> list[str]:
    """The folders that the record of `fetch` lists under a name."""
    if not place.fetch_report.exists():
        return []
    folders: list[str] = json.loads(place.fetch_report.read_text(encoding="utf-8")).get(name, [])
    return folders


def _inside(kept: pd.DataFrame, folders: list[str]) -> pd.Series:
    return kept["path"].str.split("/").str[1].isin(folders)


def _earlier_splits(place: Place, config: PrepareConfig) -> dict[str, str]:
    if not place.manifest.exists() or not place.summary.exists():
        return {}
    if json.loads(place.summary.read_text(encoding="utf-8")).get("settings") != split_settings(config):
        return {}
    earlier = read_manifest(place.manifest)
    return dict(zip(earlier["sha256"], earlier["split"], strict=True))
