"""The accuracy of a deployed model, estimated from what people reviewed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.__main__ import main
from evaluation.service import production


def stratum(*, at_sight: bool, version: str = "2", **counts: int) -> dict[str, object]:
    """Counts of one stratum, as the service has them."""
    none = {"answered": 0, "reviewed": 0, "right": 0, "neither": 0, "cannot_tell": 0}
    return none | {"version": version, "sha256": version * 64, "at_sight": at_sight} | counts


def progress(*strata: dict[str, object]) -> bytes:
    """The JSON of GET /review/progress."""
    return json.dumps({"waiting": 0, "seen_by_two": 0, "agreed": 0, "kappa": None, "strata": strata}).encode()


UNSURE = stratum(at_sight=True, answered=40_000, reviewed=300, right=180, neither=10)
REST = stratum(at_sight=False, answered=960_000, reviewed=300, right=299)


def test_the_strata_are_weighed_by_how_many_photos_they_stand_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """98.2 %, where the reviewed photos alone would say 81 %; an earlier model does not count."""
    old = stratum(at_sight=False, version="1", answered=5, reviewed=5, right=0)
    (tmp_path / "progress.json").write_bytes(progress(UNSURE, REST, old))
    words = ["production", "--file", str(tmp_path / "progress.json"), "--out", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Accuracy in production: 98.2 % [96.7 %, 98.5 %]" in said
    assert "all 1,000,000 answers of model 2, from 600 that people reviewed" in said
    assert (tmp_path / "summary.md").read_text() == said
    written = json.loads((tmp_path / "production.json").read_text())
    assert written["estimate"]["accuracy"]["value"] == pytest.approx(0.982, abs=0.001)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", "This is not the JSON of GET /review/progress"),
        (progress(), "has answered no photo since the review began"),
        (
            progress(UNSURE, stratum(at_sight=False, answered=7000)),
            "Of the 7,000 other photos, none .* Label more",
        ),
        (
            progress(REST, stratum(at_sight=True, answered=9, reviewed=2, neither=1, cannot_tell=1)),
            "Of the 9 uncertain or unfamiliar photos, none",
        ),
    ],
)
def test_without_enough_verdicts_it_says_what_to_do(content: bytes, words: str):
    """Rather than a figure that nothing supports."""
    with pytest.raises(production.ProductionError, match=words):
        production.read(content)
