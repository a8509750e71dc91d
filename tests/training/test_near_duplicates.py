"""Groups of near-duplicates are those that comparing every pair finds, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from training.photos import near_duplicates
from training.photos.near_duplicates import group_near_duplicates, without_bridges, without_conflicts

BITS = 6
SCENES = np.random.default_rng(0).integers(0, 256, (2, 1024))
EVERY_SEVENTH = sum(1 << bit for bit in range(0, 64, 7))


def uniform(n: int, seed: int = 6) -> np.ndarray:
    """Hashes of unlike photos."""
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def skewed(n: int, seed: int = 6) -> np.ndarray:
    """As of plain pictures: in 30 % of them nine adjacent bits, and every seventh one, are 0."""
    hashes = uniform(n, seed)
    hashes[: n * 3 // 10] &= np.uint64(~(0x1FF | EVERY_SEVENTH) & (2**64 - 1))
    return hashes


def frames(n: int, seed: int = 6) -> np.ndarray:
    """Ten videos, of which each frame differs in at most four bits from the frame before."""
    bits = uniform(4 * n, seed).reshape(4, n // 10, 10) % 64
    return np.bitwise_xor.accumulate(np.bitwise_xor.reduce(np.uint64(1) << bits), axis=0).ravel()


def one_scene(n: int, seed: int = 6) -> np.ndarray:
    """Frames of a fixed camera: each differs in at most five bits from the same hash."""
    return np.bitwise_xor.reduce(np.uint64(1) << uniform(5 * n, seed).reshape(5, n) % 64)


def every_pair(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Whether two hashes are near, as a matrix."""
    return np.bitwise_count(hashes[:, None] ^ hashes) <= bits


def components(linked: np.ndarray) -> np.ndarray:
    """Number of the connected component of each row."""
    return connected_components(linked, directed=False)[1]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two numberings put the same photos together."""
    return len(np.unique(a)) == len(np.unique(b)) == len(np.unique(np.stack([a, b]), axis=1).T)


def photos(hashes: np.ndarray, thumbnails: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """What prepare knows of photos, grouped."""
    table = pd.DataFrame(
        {"path": [str(number) for number in range(len(hashes))], "label": labels, "bytes": 1}
    )
    table["phash"] = hashes
    table["thumbnail"] = [pixels.astype(np.uint8).tobytes() for pixels in thumbnails]
    return table.assign(group=group_near_duplicates(hashes, BITS))


@contextmanager
def memory_below(limit_mib: int) -> Iterator[None]:
    """Fail if the body allocates more at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_mib << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bits", [0, 1, 3, 6, 12, 20])
@pytest.mark.parametrize("kind", [uniform, skewed, frames, one_scene])
def test_groups_are_those_of_comparing_every_pair(kind, bits: int):
    """On more photos than are compared at once."""
    hashes = kind(1500)
    assert same_partition(group_near_duplicates(hashes, bits), components(every_pair(hashes, bits)))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.sets(st.integers(0, 63), max_size=8)), max_size=30),
    st.integers(0, 20),
    st.integers(1, 9),
)
def test_any_hashes_are_grouped_as_by_comparing_every_pair(
    values: list[int], copies: list[tuple[int, set[int]]], bits: int, tile: int
):
    """However many are compared at once; copies of copies are chains."""
    values = values or [0]
    for index, flipped in copies:
        values.append(values[index % len(values)] ^ sum(1 << bit for bit in flipped))
    hashes = np.array(values, np.uint64)
    with mock.patch.object(near_duplicates, "_TILE", tile):
        groups = group_near_duplicates(hashes, bits)
    assert same_partition(groups, components(every_pair(hashes, bits)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_conflicts_are_those_of_comparing_every_pair(seed: int, tile: int):
    """Near by hash, alike by thumbnail or both of one colour, and under two labels."""
    chance = np.random.default_rng(seed)
    hashes = chance.choice(frames(100, seed), 40)
    thumbnails = SCENES[chance.integers(0, 2, 40)] * chance.integers(0, 2, (40, 1))
    kept = photos(hashes, thumbnails, list(chance.choice(["cat", "dog"], 40, p=[0.9, 0.1])))
    with mock.patch.object(near_duplicates, "_TILE", tile):
        left, dropped = without_conflicts(kept, BITS)
    same = components(every_pair(hashes, BITS) & (thumbnails[:, None] == thumbnails).all(axis=2))
    wrong = kept.groupby(same)["label"].transform("nunique") > 1
    assert list(dropped["path"]) == list(kept.loc[wrong, "path"])
    groups = kept[~wrong].groupby(["group", "label"]).ngroup()
    assert same_partition(left["group"].to_numpy(), groups.to_numpy())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_bridges_are_those_of_comparing_every_pair(seed: int, tile: int):
    """Those that are near a photo of a split that comes first leave, and the others are grouped again."""
    chance = np.random.default_rng(seed)
    hashes = chance.choice(frames(400, seed)[::10], 40)  # one video
    kept = photos(hashes, np.zeros((40, 1)), list(chance.choice(["cat", "dog"], 40)))
    kept["group"] = kept.groupby(["group", "label"]).ngroup()
    known = pd.Series(chance.choice(["train", "validation", "test"], 40, p=[0.8, 0.1, 0.1]))
    with mock.patch.object(near_duplicates, "_TILE", tile):
        left, dropped = without_bridges(kept, known, BITS)
    group, order = kept["group"].to_numpy(), known.map({"test": 0, "validation": 1, "train": 2}).to_numpy()
    near = every_pair(hashes, BITS) & (group[:, None] == group)
    out = (near & (order < order[:, None])).any(axis=1)
    assert list(dropped["path"]) == list(kept.loc[out, "path"])
    assert known[left.index].groupby(left["group"]).nunique().eq(1).all()
    spanning = kept.assign(order=order).groupby("group")["order"].transform("nunique")[~out].to_numpy() > 1
    again = components(near[np.ix_(~out, ~out)][np.ix_(spanning, spanning)])
    assert same_partition(left["group"].to_numpy()[spanning], again)


@pytest.mark.parametrize("band", range(BITS + 1))
def test_hashes_that_are_equal_in_one_band_alone_share_a_group(band: int):
    """They differ in a bit of each other band, and small buckets are not compared together."""
    hashes = np.array([0, 0b1111111 & ~(1 << band)], np.uint64)
    with mock.patch.object(near_duplicates, "_TILE", 1):
        assert group_near_duplicates(hashes, BITS).tolist() == [0, 0]


def test_many_plain_pictures_are_grouped_in_bounded_memory():
    """A share of 30 % with equal bits once took a matrix of 6,000 by 6,000 hashes."""
    hashes = skewed(20_000)
    with memory_below(48):
        group_near_duplicates(hashes, BITS)


def test_many_frames_of_one_scene_are_hardly_compared():
    """Once they are known to be connected, their pairs are skipped: every pair would be 400 million."""
    hashes = one_scene(20_000)
    with mock.patch.object(near_duplicates, "_near", wraps=near_duplicates._near) as near:
        assert group_near_duplicates(hashes, BITS).max() == 0
    assert sum(len(call.args[0]) * len(call.args[1]) for call in near.call_args_list) < 100_000_000


def test_a_large_group_is_searched_in_bounded_memory():
    """Matrices of every pair of 3,000 frames took 72 MB each."""
    hashes = one_scene(3000)
    thumbnails = SCENES[np.arange(3000) % 2]
    kept = photos(hashes, thumbnails, ["cat", "dog"] * 1500)
    known = pd.Series(["train", "train", "validation", "test"] * 750)
    with memory_below(48):
        left, dropped = without_conflicts(kept, BITS)
        assert dropped.empty
        assert left["group"].nunique() == 2
        left, dropped = without_bridges(left, known, BITS)
        assert known[left.index].groupby(left["group"]).nunique().eq(1).all()
        assert len(left) + len(dropped) == 3000
