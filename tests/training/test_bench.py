"""The training benchmark runs on any data and reports ratios within its own run."""

from __future__ import annotations

import json

import pytest

from tests.tiny import train_config
from training.place import Place
from training.study.bench import rates

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*LeafSpec.*:")


def test_every_source_is_compared_with_the_limit(place: Place):
    """Three sources, each with a rate, a share of the limit and a share of waiting."""
    found = rates.measure(train_config(), place, size=32, turns=2, steps=1)
    assert len(found.sources) == 3
    for row in found.sources.values():
        assert row.photos_a_second > 0
        assert 0 <= row.waiting <= 1
    assert list(found.sources.values())[-1].of_the_limit == 1.0
    assert rates.as_markdown(found).count("|") == 5 * 5
    assert json.loads((place.bench / "rates.json").read_text())["turns"] == 2


def test_a_turn_may_be_longer_than_a_pass(place: Place):
    """A few photos are repeated."""
    found = rates.measure(train_config("--loader.batch_size", "32"), place, size=32, turns=1, steps=3)
    assert all(row.photos_a_second > 0 for row in found.sources.values())
