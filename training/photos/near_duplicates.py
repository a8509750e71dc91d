"""Perceptual hashes in, groups of near-duplicates out: the same photo at another size, quality or light.

Photos that would leave a near-duplicate in another split, or under another label, are dropped with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_HASH_BITS: Final = 64
_SAME_PHOTO: Final = 0.95
"""Correlation of two thumbnails from which on they show the same photo."""
_TILE: Final = 512
"""Most photos that are compared with as many others at once: this bounds the memory."""
_PRECEDENCE: Final = {"test": 0, "validation": 1, "train": 2}

Hashes: TypeAlias = npt.NDArray[np.uint64]
Groups: TypeAlias = npt.NDArray[np.int32]
Indices: TypeAlias = npt.NDArray[np.int64]
Agree: TypeAlias = Callable[[Indices, Indices], npt.NDArray[np.bool_]]
"""Indices `[A]` and `[B]` in, `bool[A,B]` out: whether two photos match in what their hashes do not show."""


def group_near_duplicates(hashes: Hashes, bits: int) -> Groups:
    """Group number of each hash: two hashes that differ in at most `bits` bits share one, transitively."""
    values, inverse = np.unique(hashes, return_inverse=True)
    return _connected(values, bits)[inverse]


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
    mixed = kept[kept.groupby("group")["label"].transform("nunique") > 1]
    if len(mixed):
        thumbnails = _thumbnails(mixed)
        same = _connected(
            mixed["phash"].to_numpy(np.uint64),
            bits,
            lambda a, b: _correlation(thumbnails[a], thumbnails[b]) >= _SAME_PHOTO,
        )
        conflict[mixed.index] = mixed.groupby(same)["label"].transform("nunique") > 1
    dropped = kept.loc[conflict, ["path", "label", "bytes"]].assign(reason="conflicting duplicate")
    left = kept[~conflict].copy()
    left["group"] = left.groupby(["group", "label"], sort=False).ngroup()
    return left, dropped


def near_one_of(photos: pd.DataFrame, others: pd.DataFrame, bits: int) -> npt.NDArray[np.bool_]:
    """`bool[N]`: whether each photo is a near-duplicate of one of `others`, whatever their labels.

    Args:
        photos: Columns label, phash and thumbnail.
        others: The same.
        bits: Most bits in which the hashes of near-duplicates differ.
    """
    found = np.zeros(len(photos), bool)
    for rows in _tiles(np.arange(len(photos))):
        one = photos.iloc[rows]
        for columns in _tiles(np.arange(len(others))):
            other = others.iloc[columns]
            near = _near(one["phash"].to_numpy(np.uint64), other["phash"].to_numpy(np.uint64), bits)
            if near.any():  # as in `without_conflicts`, hashes of different labels may agree by chance
                same_label = one["label"].to_numpy()[:, None] == other["label"].to_numpy()
                near &= same_label | (_correlation(_thumbnails(one), _thumbnails(other)) >= _SAME_PHOTO)
            found[rows] |= near.any(axis=1)
    return found


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
        again = kept[spanning[kept.index]]
        kept.loc[again.index, "group"] = kept["group"].max() + 1 + _divided(again, bits)
    return kept, pd.concat(dropped)


def _divided(members: pd.DataFrame, bits: int) -> Groups:
    """Group number of each photo after others have left: near-duplicates of one group still share one."""
    before = members["group"].to_numpy()
    return _connected(members["phash"].to_numpy(np.uint64), bits, lambda a, b: before[a, None] == before[b])


def _is_new(_members: pd.DataFrame, order: pd.Series, _bits: int) -> pd.Series:
    return order.isna()


def _is_near_a_precedent(members: pd.DataFrame, order: pd.Series, bits: int) -> pd.Series:
    """Whether a photo is near one of a split that precedes its own."""
    hashes, places = members["phash"].to_numpy(np.uint64), order.to_numpy()
    out = np.zeros(len(members), bool)
    for rows in _tiles(np.arange(len(members))):
        for columns in _tiles(np.arange(len(members))):
            precedes = places[columns] < places[rows, None]
            out[rows] |= (_near(hashes[rows], hashes[columns], bits) & precedes).any(axis=1)
    return pd.Series(out, index=members.index)


def _connected(hashes: Hashes, bits: int, agree: Agree | None = None) -> Groups:
    """Group number of each hash: two that differ in at most `bits` bits and `agree` share one, transitively.

    Candidates come from `bits + 1` bands of the hash: by the pigeonhole principle two hashes that
    close are equal in at least one band. A band takes every `bits + 1`th bit, because adjacent bits of
    plain pictures are correlated: a band of adjacent bits would hold the same value for most of them.
    """
    groups = np.arange(len(hashes), dtype=np.int32)
    for first in range(bits + 1):
        band = hashes & np.uint64(sum(1 << bit for bit in range(first, _HASH_BITS, bits + 1)))
        order = np.argsort(band, kind="stable")
        ends = np.flatnonzero(np.diff(band[order])) + 1
        ends = ends[np.unique(ends // _TILE, return_index=True)[1]]  # small buckets are compared together
        joined = groups.copy()
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                firsts = _compare(bucket, groups[bucket], hashes, bits, agree)
                joined[bucket] = groups[bucket[firsts]]
        groups = _merge(groups, groups, joined)
    return groups


def _compare(bucket: Indices, groups: Groups, hashes: Hashes, bits: int, agree: Agree | None) -> Indices:
    """For each photo of a bucket, the first one there that is connected to it.

    Pairs of one group are known to be connected. The largest group is compared only with the other
    photos, so thousands of frames of one scene cost little.
    """
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    left = np.arange(len(bucket))
    while len(rows := left[groups[left] != np.bincount(groups[left]).argmax()][:_TILE]):
        for columns in _tiles(left):
            a, b = bucket[rows], bucket[columns]
            near = _near(hashes[a], hashes[b], bits) & (groups[rows, None] != groups[columns])
            if agree and near.any():
                near &= agree(a, b)
            row, column = np.divmod(np.flatnonzero(near), len(columns))
            if len(row):
                groups = _merge(groups, groups[rows[row]], groups[columns[column]])
        left = np.setdiff1d(left, rows, assume_unique=True)
    return np.unique(groups, return_index=True)[1][groups]


def _merge(groups: Groups, a: Groups, b: Groups) -> Groups:
    """The groups, numbered from 0, once each group of `a` is joined with its counterpart in `b`."""
    links = coo_array((np.ones(len(a), bool), (a, b)), shape=(groups.max(initial=-1) + 1,) * 2)
    return np.asarray(connected_components(links, directed=False)[1][groups], np.int32)


def _tiles(indices: Indices) -> list[Indices]:
    return np.split(indices, range(_TILE, len(indices), _TILE))


def _near(a: Hashes, b: Hashes, bits: int) -> npt.NDArray[np.bool_]:
    """`bool[A,B]`: whether the hashes differ in at most `bits` bits."""
    near: npt.NDArray[np.bool_] = np.bitwise_count(a[:, None] ^ b) <= bits
    return near


def _thumbnails(photos: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """`u8[N,P]`."""
    return np.stack([np.frombuffer(data, np.uint8) for data in photos["thumbnail"]])


def _correlation(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """`f64[A,B]`: Pearson's correlation of the thumbnails' pixels; 1 for two that are both of one colour."""
    return _standardised(a) @ _standardised(b).T


def _standardised(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """`f64[N,P+1]`: the pixels less their mean, of length 1; if all are equal, only the last value is 1."""
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.hstack([centred / np.where(norm == 0, 1, norm), norm == 0])


def stable_group_names(kept: pd.DataFrame) -> pd.Series:
    """Name each group by the sha256 of its first photo, in natural order of file names."""
    return kept.groupby("group")["sha256"].transform("first").str[:16]
