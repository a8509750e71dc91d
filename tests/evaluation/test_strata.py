"""Reviewed photos, most of them uncertain, give the accuracy of all answers without bias."""

from __future__ import annotations

import contextlib
import math
import sqlite3

import msgspec
import numpy as np
import pytest

from evaluation.figures.intervals import wilson
from evaluation.figures.strata import Stratum, production
from serving.observers.review import strata, verdicts
from serving.observers.review.schema import MIGRATIONS

Random = np.random.Generator
Photos = list[tuple[bool, bool, int]]


def test_a_case_by_hand():
    """100 uncertain photos, half right, and 900 others, 99 of 100 right: (100 * 0.5 + 900 * 0.99) / 1,000."""
    found = production([Stratum(100, 50, 25, 0, 0), Stratum(900, 100, 99, 0, 0)])
    assert found.accuracy.value == pytest.approx(0.941)
    assert found.accuracy.n == 150
    assert found.neither.value == 0
    half, most = wilson(25, 50), wilson(99, 100)
    below = math.hypot(0.1 * (0.5 - half.low), 0.9 * (0.99 - most.low))
    assert found.accuracy.low == pytest.approx(0.941 - below)


def test_photos_of_no_class_and_those_nobody_can_tell_are_kept_apart():
    """Of 50, ten show neither and ten are unclear: 30 of 40 show a class, and of these 15 are right."""
    found = production([Stratum(100, 50, 15, 10, 10), Stratum(900, 100, 100, 0, 0)])
    assert found.neither.value == pytest.approx(0.1 * 0.25)
    assert found.accuracy.value == pytest.approx((75 * 0.5 + 900) / 975)


@pytest.mark.parametrize(
    "counts", [[], [Stratum(0, 0, 0, 0, 0)], [Stratum(10, 0, 0, 0, 0), Stratum(90, 9, 9, 0, 0)]]
)
def test_without_a_reviewed_photo_of_each_kind_there_is_no_estimate(counts: list[Stratum]):
    """Not a number rather than a guess."""
    assert math.isnan(production(counts).accuracy.value)


def test_one_kind_alone_is_a_plain_share():
    """With Wilson's interval."""
    assert production([Stratum(1000, 50, 45, 0, 0)]).accuracy == wilson(45, 50)


def answered(random: Random) -> tuple[Photos, float]:
    """600 answered photos as uncertain, right and number of the picture; and how often they are right.

    A wrong uncertain picture is sent 25 times, and the later half is easier.
    """
    photos = []
    for half in range(2):
        photos += [(True, bool(random.random() < (0.4, 0.9)[half]), len(photos) + n) for n in range(47)]
        photos += [(True, False, -1)] * 13
        photos += [(False, bool(random.random() < (0.94, 1.0)[half]), len(photos) + n) for n in range(240)]
    return photos, sum(right for _, right, _ in photos) / len(photos)


def keep(
    database: sqlite3.Connection, photos: Photos, places: range, random: Random, twins: dict[int, str]
) -> None:
    """Keep the photos at these places as the queue does, with a quarter as the share of the random sample."""
    for place in places:
        uncertain, _, picture = photos[place]
        database.execute(
            "insert into counts values (0, 's', '1', ?, 1) on conflict do update set answered = answered + 1",
            (uncertain,),
        )
        sampled = bool(random.random() < 0.25)
        if not uncertain and not sampled:
            continue
        rank, name = int(random.integers(2**53)), f"{place}"
        twin = twins.setdefault(picture, name)
        database.execute(
            "insert into photos values (?, ?, 'cat', 0.9, '1', 's', '', ?, ?, ?, ?, ?, null, null)",
            (name, place, uncertain, sampled, rank, rank, None if twin == name else twin),
        )
        database.execute("update photos set turn = min(turn, ?) where request_id = ?", (rank, twin))


def drop(database: sqlite3.Connection, count: int, twins: dict[int, str]) -> None:
    """Delete the last in line for want of room, as the queue does."""
    last = database.execute(
        "select request_id, turn from photos where same_as is null order by turn desc limit ?", (count,)
    ).fetchall()
    for name, _ in last:
        database.execute("delete from photos where ? in (request_id, same_as)", (name,))
        twins.pop(next(picture for picture, first in twins.items() if first == name))
    database.execute("insert into ceilings values (0, ?)", (min(turn for _, turn in last),))


def review(database: sqlite3.Connection, photos: Photos, count: int) -> list[bool]:
    """Review photos in the order of the page; return whether the answers were right."""
    seen = []
    for _ in range(count):
        name = verdicts.next_photo(database, "ada")
        if name is None:
            break
        seen.append(photos[int(name)][1])
        verdicts.give(database, name, "ada", "label", "cat" if seen[-1] else "dog", 0)
    return seen


@pytest.mark.parametrize(
    ("dropped", "reviewed"), [(0, 1000), (0, 60), (60, 1000)], ids=["all", "begun", "no room"]
)
def test_the_estimate_is_unbiased_where_the_mean_of_the_reviewed_is_not(dropped: int, reviewed: int):
    """However far the review is, and whatever was deleted for want of room; one picture came 25 times.

    120 reviews each, in the queue's own tables: the mean error of the estimate is within four standard
    errors of none, the mean of the reviewed photos is wrong by a tenth, and 95 % intervals hold the truth.
    """
    errors, naive, held = [], [], 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        photos, truth = answered(random)
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.executescript(";".join(MIGRATIONS))
            twins: dict[int, str] = {}
            keep(database, photos, range(300), random, twins)
            if dropped:
                drop(database, dropped, twins)
            keep(database, photos, range(300, len(photos)), random, twins)
            seen = review(database, photos, reviewed)
            counts = msgspec.convert(msgspec.to_builtins(strata.strata(database)), list[Stratum])
        estimate = production(counts).accuracy
        errors.append(estimate.value - truth)
        naive.append(np.mean(seen) - truth)
        held += estimate.low <= truth <= estimate.high
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(len(errors))
    assert dropped or np.mean(naive) < -0.05  # with photos dropped, two errors of it happen to cancel out
    assert held / len(errors) > 0.9
