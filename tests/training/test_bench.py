"""The benchmark of training runs on any data and tells ratios within its own run."""

from __future__ import annotations

from pathlib import Path

from tests import tiny
from training.bench import as_markdown, bench
from training.prepare import prepare
from training.sample import draw_dataset


def test_every_source_is_held_to_the_limit(workplace: Path):
    """Three sources, each with a rate, a share of the limit and a share of waiting."""
    draw_dataset(Path("data/raw"), 20, 1)
    prepare(tiny.data_config().prepare)
    figures = bench(tiny.train_config(), 32, turns=2, steps=1)
    assert len(figures["sources"]) == 3
    for row in figures["sources"].values():
        assert row["photos_a_second"] > 0
        assert 0 <= row["waiting"] <= 1
    limit = list(figures["sources"].values())[-1]
    assert limit["of_the_limit"] == 1.0
    assert as_markdown(figures).count("|") == 5 * 5
