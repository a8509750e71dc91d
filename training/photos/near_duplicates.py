"""Perceptual hashes in, groups of near-duplicates out: the same photo at another size, quality or light.

Photos that would leave a near-duplicate in another split, or under another label, are dropped with a reason.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_HASH_BITS: Final = 64
_SAME_PHOTO: Final = 0.95
"""Correlation of two thumbnails from which on they show the same photo."""
_PRECEDENCE: Final = {"test": 0, "validation": 1, "train": 2}


def group_near_duplicates(hashes: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.int32]:
    """Group number of each hash: two hashes that differ in at most `bits` bits share one, transitively.

    Candidates come from `bits + 1` bands of the hash: by the pigeonhole principle two hashes that
    close agree in at least one band. Equal hashes are collapsed first.
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


def without_conflicts(kept: pd.DataFrame, bits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop near-duplicates filed under different labels: one of the labels is wrong.

    The hashes of plain pictures, such as handwritten digits, can agree by chance. So two photos with
    different labels count as near-duplicates only if their thumbnails agree as well; otherwise the group is
    divided.

    Args:
        kept: Columns path, label, bytes, phash, thumbnail and group.
        bits: Most bits in which the hashes of near-duplicates differ.

    Returns:
        The rows kept, with their groups, and the rows dropped with their reason.
    """
    conflict = pd.Series(False, index=kept.index)
    mixed = kept.groupby("group")["label"].transform("nunique") > 1
    for _, members in kept[mixed].groupby("group"):
        alike = _near(members, bits) & (_correlation(members["thumbnail"]) >= _SAME_PHOTO)
        same = pd.Series(connected_components(coo_array(alike), directed=False)[1], index=members.index)
        conflict[members.index] = members.groupby(same)["label"].transform("nunique") > 1
    dropped = kept.loc[conflict, ["path", "label", "bytes"]].assign(reason="conflicting duplicate")
    left = kept[~conflict].copy()
    left["group"] = left.groupby(["group", "label"], sort=False).ngroup()
    return left, dropped


def without_bridges(kept: pd.DataFrame, known: pd.Series, bits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop what would put near-duplicates into two splits, so that each group lies in one.

    A new photo that is near to earlier ones of two splits is dropped first. If earlier photos of two splits
    are near each other (because `bits` has grown), those of test stay, or else those of validation.

    Args:
        kept: Columns path, label, bytes, phash and group.
        known: Split of each photo that has one already; NaN for new photos.
        bits: Most bits in which the hashes of near-duplicates differ.

    Returns:
        The rows kept, with their groups, and the rows dropped with their reason.
    """
    order = known.map(_PRECEDENCE)
    dropped = []
    for reason, leaves in (
        ("near-duplicate across splits", _is_new),
        ("near-duplicate in another split", _is_near_a_precedent),
    ):
        group = kept["group"]
        spanning = order[kept.index].groupby(group).transform("nunique") > 1
        out = pd.Series(False, index=kept.index)
        for _, members in kept[spanning].groupby("group"):
            out[members.index] = leaves(members, order[members.index], bits)
        dropped.append(kept.loc[out, ["path", "label", "bytes"]].assign(reason=reason))
        kept = kept[~out].copy()
        for _, members in kept[spanning[kept.index]].groupby("group"):
            parts = connected_components(coo_array(_near(members, bits)), directed=False)[1]
            kept.loc[members.index, "group"] = kept["group"].max() + 1 + parts
    return kept, pd.concat(dropped)


def _is_new(_members: pd.DataFrame, order: pd.Series, _bits: int) -> pd.Series:
    return order.isna()


def _is_near_a_precedent(members: pd.DataFrame, order: pd.Series, bits: int) -> pd.Series:
    """Whether a photo is near one of a split that precedes its own."""
    precedes = order.to_numpy()[None, :] < order.to_numpy()[:, None]
    return pd.Series((_near(members, bits) & precedes).any(axis=1), index=members.index)


def _near(members: pd.DataFrame, bits: int) -> npt.NDArray[np.bool_]:
    """`bool[N,N]`: whether the hashes differ in at most `bits` bits."""
    hashes = members["phash"].to_numpy(np.uint64)
    near: npt.NDArray[np.bool_] = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= bits
    return near


def _correlation(thumbnails: pd.Series) -> npt.NDArray[np.float64]:
    """`f64[N,N]`: Pearson's correlation of the thumbnails' pixels; 1 for two that are both of one colour."""
    pixels = np.stack([np.frombuffer(data, np.uint8) for data in thumbnails]).astype(np.float64)  # [N,P]
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1)
    plain = norm == 0
    unit = centred / np.where(plain, 1, norm)[:, None]
    return np.where(plain[:, None] & plain[None, :], 1.0, unit @ unit.T)


def stable_group_names(kept: pd.DataFrame) -> pd.Series:
    """Name each group by the sha256 of its first photo, in natural order of file names."""
    return kept.groupby("group")["sha256"].transform("first").str[:16]
