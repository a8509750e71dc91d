"""The drawn worlds of a rehearsal, and how the queue is judged with the truth about them."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rehearsal import kept, worlds
from rehearsal.kept import Answered
from rehearsal.reviewers import Reviewer
from rehearsal.worlds import NEW, OLD, Picture


def pixels(picture: Picture) -> np.ndarray:
    """Of the encoded picture, `f32[H,W,3]`."""
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"), np.float32)


def some(number: int, *, world: str = OLD, label: str = "cat") -> Picture:
    """A picture whose bytes nobody decodes."""
    return Picture(f"{world}{number}".encode(), label, world, new_kind=False)


def test_the_same_number_gives_the_same_picture():
    """In the same world only; a rehearsal can be repeated."""
    assert worlds.picture(OLD, 3) == worlds.picture(OLD, 3)
    assert len({worlds.picture(world, number).sha256 for world in (OLD, NEW) for number in range(2)}) == 4


def test_the_new_world_is_grey_and_dark():
    """Less than half of the light, and no colour."""
    old, new = ([pixels(worlds.picture(world, number)) for number in range(6)] for world in (OLD, NEW))
    assert np.median([one.mean() for one in new]) < np.median([one.mean() for one in old]) / 2
    assert max(np.ptp(one, axis=2).max() for one in new) <= 2
    assert min(np.ptp(one, axis=2).max() for one in old) > 20


def test_half_of_the_dogs_of_the_new_world_are_of_a_new_kind(monkeypatch: pytest.MonkeyPatch):
    """They have the label dog, and a head of their own."""
    heads = []

    def draw(_label: str, _random: object, head: object = None) -> Image.Image:
        heads.append(head)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(worlds.drawn, "draw", draw)
    found = [worlds.picture(NEW, number) for number in range(8)]
    assert [one.label for one in found] == ["cat", "dog"] * 4
    assert [one.new_kind for one in found] == [False, True, False, False] * 2
    assert [head is not None for head in heads] == [one.new_kind for one in found]
    assert not any(worlds.picture(OLD, number).new_kind for number in range(8))


def test_pictures_are_saved_by_their_label(tmp_path: Path):
    """In folders that make data takes."""
    found = [some(1), some(2, label="dog")]
    worlds.save(found, tmp_path)
    assert {path.parent.name: path.read_bytes() for path in tmp_path.rglob("*.jpg")} == {
        one.label: one.data for one in found
    }


def test_precision_is_of_what_is_kept_for_a_reason(tmp_path: Path):
    """Neither a photo of the random sample alone, nor a duplicate, nor one that no caller sent counts."""
    sent = [some(0), some(1, world=NEW), some(2, world=NEW), some(3), some(4)]
    rows = [
        (sent[0].data, "cat", "sample", None),
        (sent[1].data, "dog", "uncertain,sample", None),
        (sent[2].data, "cat", "unfamiliar", None),
        (None, "cat", "uncertain", "id-of-another"),
        (sent[3].data, "cat", "uncertain", None),
        (b"a smoke photo", "cat", "unfamiliar", None),
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as database, database:
        database.execute("create table photos (photo blob, prediction text, reasons text, same_as text)")
        database.executemany("insert into photos values (?, ?, ?, ?)", rows)
    queue = kept.read(tmp_path / "r.db", worlds.truth(sent))
    answered = [Answered(one, "cat") for one in sent]
    answered[1] = Answered(sent[1], "dog")
    found = kept.precision(queue, answered, lambda one: one.picture.world == NEW)
    assert (found.queue.value, found.queue.n) == (2 / 3, 3)
    assert (found.base.value, found.base.n) == (2 / 5, 5)
    assert [one.wrong for one in queue] == [True, False, False]
    assert kept.accuracy(answered).value == 4 / 5


def test_a_queue_is_better_than_chance_if_its_interval_says_so():
    """Ten of ten against a third of ninety is; one of one is not."""
    wrong, right = Answered(some(0), "dog"), Answered(some(1), "cat")
    answered = [wrong] * 30 + [right] * 60
    assert kept.precision([wrong] * 10, answered, lambda one: one.wrong).better_than_chance
    assert not kept.precision([wrong], answered, lambda one: one.wrong).better_than_chance


def test_a_person_may_be_mistaken_now_and_then():
    """Each fifth time; another person never is."""
    person = Reviewer("bob", mistaken_every=5)
    said = []
    for _ in range(10):
        said.append(person.says("cat"))
        person.seconds.append(0.1)
    assert said == [*["cat"] * 4, "dog"] * 2
    assert Reviewer("ada").says("dog") == "dog"
