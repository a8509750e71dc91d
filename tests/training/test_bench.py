"""The benchmark of training runs on any data and tells ratios within its own run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from training.bench import loops, run
from training.prepare import prepare
from training.sample import draw_dataset


def test_every_source_is_held_to_the_limit(workplace: Path):
    """Three sources, each with a rate, a share of the limit and a share of waiting."""
    draw_dataset(Path("data/raw"), 20, 1)
    prepare(tiny.data_config().prepare)
    made = loops.prepare(tiny.train_config(), 32)
    figures = run.bench(made, turns=2, steps=1, keras=False)
    assert len(figures["sources"]) == 3
    for row in figures["sources"].values():
        assert row["photos_a_second"] > 0
        assert 0 <= row["waiting"] <= 1
    limit = list(figures["sources"].values())[-1]
    assert limit["of_the_limit"] == 1.0
    assert run.rates_as_markdown(figures).count("|") == 5 * 5


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_way_to_an_accuracy_is_told(workplace: Path):
    """Steps, seconds and every look at it; what is not reached is said to be so."""
    draw_dataset(Path("data/raw"), 20, 1)
    prepare(tiny.data_config().prepare)
    made = loops.prepare(tiny.train_config(), 32)
    results = run.race(made, 1.01, 1, keras=False)
    for way in results.values():
        assert not way["reached"]
        assert [look["steps"] for look in way["trace"]][-1] == 4
        assert 0 <= way["best"]["accuracy"] <= 1
        assert way["seconds"] > 0
    assert run.race_as_markdown(results, 1.01).count("not in") == 2
