"""Perceptual hashes in, groups of near-duplicates out: the same photo at another size, quality or light."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_HASH_BITS: Final = 64


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


def without_conflicts(kept: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop near-duplicates filed under different labels: one of the labels is wrong.

    Args:
        kept: Columns path, label, bytes and group.

    Returns:
        The rows kept, and the rows dropped with their reason.
    """
    conflict = kept.groupby("group")["label"].transform("nunique") > 1
    dropped = kept.loc[conflict, ["path", "label", "bytes"]].assign(reason="conflicting duplicate")
    return kept.loc[~conflict].copy(), dropped


def stable_group_names(kept: pd.DataFrame) -> pd.Series:
    """Name each group by the sha256 of its first photo, in natural order of file names."""
    return kept.groupby("group")["sha256"].transform("first").str[:16]
