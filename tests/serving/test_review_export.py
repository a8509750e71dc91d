"""Labelled photos leave the review as training data, as a test set of production, or apart."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.observers.review import verdicts
from serving.observers.review.export import pack
from serving.observers.review.queue import ReviewQueue
from tests.serving.reviewing import jpeg, opened, seen


def give(
    queue: ReviewQueue, request_id: str, reviewer: str, label: str | None, verdict: str = "label"
) -> None:
    """A person's verdict."""
    with queue.transaction() as transaction:
        verdicts.give(transaction, request_id, reviewer, verdict, label, at=1.0)


def fill(folder: Path, share: float, *ids: str, uncertain: bool = True) -> ReviewQueue:
    """A queue with photos, each unlike the others."""
    queue = opened(folder, share=share)
    for number, request_id in enumerate(ids, int(1000 * share)):
        queue.observe(seen(request_id, number, uncertain=uncertain))
    queue.close()
    return opened(folder)


def test_each_photo_goes_where_it_belongs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """By what people said, and by why it was kept; one without a verdict stays."""
    fill(tmp_path, 1.0, "drawn", "drawn-neither", uncertain=False).close()
    queue = fill(tmp_path, 0.0, "unsure", "nobody-knows", "two-say-the-same", "two-disagree", "waiting")
    give(queue, "drawn", "ann", "dog")
    give(queue, "drawn-neither", "ann", None, "neither")
    give(queue, "unsure", "ann", "cat")
    give(queue, "nobody-knows", "ann", None, "cannot-tell")
    for reviewer, other in (("ann", "cat"), ("bob", "dog")):
        give(queue, "two-say-the-same", reviewer, "dog")
        give(queue, "two-disagree", reviewer, other)
    queue.close()
    out = tmp_path / "out"
    assert main(["export-review", str(tmp_path / "r.db"), str(out)]) == 0
    assert "6 labelled photos\n  apart/cannot-tell: 1\n" in capsys.readouterr().out
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.jpeg"))
    assert written == [
        "apart/cannot-tell/nobody-knows.jpeg",
        "apart/disagreed/two-disagree.jpeg",
        "apart/neither/drawn-neither.jpeg",
        "production/dog/drawn.jpeg",
        "train/cat/unsure.jpeg",
        "train/dog/two-say-the-same.jpeg",
    ]
    assert (out / "production/dog/drawn.jpeg").read_bytes() == jpeg(1000)
    with (out / "labels.csv").open(newline="") as file:
        rows = {row["request_id"]: row for row in csv.DictReader(file)}
    assert rows["two-disagree"]["verdicts"] == "ann: cat; bob: dog"
    assert rows["unsure"]["reasons"] == "uncertain"
    assert rows["unsure"]["path"] == "train/cat/unsure.jpeg"


def test_a_photo_whose_twin_was_drawn_is_never_trained_on(tmp_path: Path):
    """The bytes of one stand for both: what is trained on one is known of the other."""
    queue = opened(tmp_path)
    queue.observe(seen("kept", 7))
    queue.close()
    queue = opened(tmp_path, share=1.0)
    queue.observe(seen("twin", 7, uncertain=False))
    queue.close()
    queue = opened(tmp_path)
    give(queue, "kept", "ann", "cat")
    queue.close()
    assert main(["export-review", str(tmp_path / "r.db"), str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out/production/cat").iterdir()] == ["kept.jpeg"]
    assert not (tmp_path / "out/train").exists()


def test_what_cannot_be_exported_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A missing file, another file, and a folder that holds an older export."""
    assert main(["export-review", str(tmp_path / "none.db"), str(tmp_path / "out")]) == 2
    (tmp_path / "text.db").write_text("no database, whatever its name says" * 100)
    assert main(["export-review", str(tmp_path / "text.db"), str(tmp_path / "out")]) == 2
    opened(tmp_path).close()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/cat.jpeg").write_bytes(b"older")
    assert main(["export-review", str(tmp_path / "r.db"), str(tmp_path / "full")]) == 2
    said = capsys.readouterr().err
    for words in ("There is no review database at", "is not a review database", "full is not empty"):
        assert words in said


def test_a_zip_holds_one_photo_in_memory(tmp_path: Path):
    """However large the review is."""
    queue = opened(tmp_path)
    size_bytes = 1_000_000
    for number in range(20):
        photo = jpeg(number) + bytes(size_bytes)
        queue.observe(seen(f"p{number}", number, photo=photo))
        queue._flush()
        give(queue, f"p{number}", "ann", "cat")
    queue.close()
    tracemalloc.start()
    try:
        with (tmp_path / "review.zip").open("w+b") as archive:
            pack(tmp_path / "r.db", archive)
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "review.zip").stat().st_size > 20 * size_bytes
    assert peak < 5 * size_bytes
