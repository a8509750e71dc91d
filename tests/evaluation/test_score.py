"""One row for every photo, and nothing computed twice after an interruption."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.__main__ import main
from evaluation.batch import local, parts
from evaluation.batch.score import find_paths
from evaluation.batch.scorer import Scorer
from tests.pictures import encode, scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of different shapes, a broken one, an empty one, and a text file."""
    folder = tmp_path / "photos"
    (folder / "deep/er").mkdir(parents=True)
    for number in range(10):
        (folder / "deep/er" / f"{number}.jpg").write_bytes(encode(scene(60 + 10 * number)))
    (folder / "broken.jpg").write_bytes(encode(scene())[:200])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def held_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much Arrow memory the process holds, at each write of a table to a file."""
    before = pa.total_allocated_bytes()
    held: list[int] = []
    write = pq.ParquetWriter.write_table

    def measured(self: pq.ParquetWriter, table: pa.Table, *more: Any, **options: Any) -> None:
        held.append(pa.total_allocated_bytes() - before)
        write(self, table, *more, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", measured)
    return held


def run(model: Path, source: Path, out: Path, *more: str) -> int:
    """Run the command."""
    return main(["score", str(source), str(out), "--model", str(model), *more])


def test_every_photo_has_its_row(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Predictions are the handler's; errors have the service's codes; the file names its model."""
    assert run(model, photos, tmp_path / "out.parquet") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    rows = {Path(row["path"]).name: row for row in table.to_pylist()}
    assert len(rows) == 12
    assert (rows["broken.jpg"]["error"], rows["empty.png"]["error"]) == ("broken-image", "empty")
    assert rows["broken.jpg"]["prediction"] is None
    handler = Scorer(model).handler
    answer = handler.handle([{"body": (photos / "deep/er/3.jpg").read_bytes()}])[0]
    assert rows["3.jpg"]["p_cat"] == pytest.approx(answer.probabilities["cat"], abs=1e-6)
    assert rows["3.jpg"]["error"] is None
    assert table.schema.metadata[b"sha256"].decode() == handler.artifact.sha256
    assert "10 ok" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("out*")] == ["out.parquet"]


def test_a_list_names_photos_relative_to_itself(model: Path, photos: Path, tmp_path: Path):
    """In its order, twice if named twice; a missing photo has a row too."""
    (photos / "list.txt").write_text("deep/er/7.jpg\nnone.jpg\n\ndeep/er/7.jpg\n")
    assert run(model, photos / "list.txt", tmp_path / "out.parquet") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert [Path(path).name for path in table["path"].to_pylist()] == ["7.jpg", "none.jpg", "7.jpg"]
    assert table["error"].to_pylist() == [None, "unreadable", None]


def test_an_interrupted_run_resumes_where_it_stopped(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Interrupted in the third part: only the rest is computed, and the result is complete."""
    paths = find_paths(photos)
    ours = Scorer(model)
    whole = tmp_path / "whole.parquet"
    local.score(ours, paths, whole, part_rows=5)
    seen: list[str] = []
    row = Scorer.row

    def dies(self: Scorer, path: str) -> dict[str, object]:
        if path == paths[10]:
            raise KeyboardInterrupt
        return row(self, path)

    def counted(self: Scorer, path: str) -> dict[str, object]:
        seen.append(path)
        return row(self, path)

    out = tmp_path / "out.parquet"
    monkeypatch.setattr(Scorer, "row", dies)
    with pytest.raises(KeyboardInterrupt):
        local.score(ours, paths, out, part_rows=5)
    assert not out.exists()
    monkeypatch.setattr(Scorer, "row", counted)
    local.score(ours, paths, out, part_rows=5)
    assert sorted(seen) == sorted(paths[10:])
    assert pq.read_table(out).equals(pq.read_table(whole))


def test_an_engine_with_200_000_answers_finds_one_part_in_memory(
    model: Path, tmp_path: Path, held_bytes: list[int]
):
    """Neither the parts nor the file they become hold more than a part, and the rows keep their order."""
    scorer = Scorer(model)

    def engine(batches: Iterator[list[str]]) -> Generator[pa.Table, None, None]:
        for number, photos in enumerate(batches):
            yield scorer.table([{"path": path, "error": str(number)} for path in photos])

    paths = [f"{number:0200}.jpg" for number in range(200_000)]
    assert parts.write(tmp_path / "out.parquet", scorer, paths, engine).total() == 200_000
    assert max(held_bytes) < 200 * 200_000 / 10
    assert pq.read_table(tmp_path / "out.parquet")["path"].to_pylist() == paths


@pytest.mark.parametrize("case", ["another model", "nothing there", "no photo", "other output"])
def test_what_cannot_be_scored_is_an_error_with_its_cause(
    case: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with the cause and the next step; parts of another run stay."""
    out, source, words = tmp_path / "out.parquet", photos, "Delete it"
    if case == "another model":
        parts = tmp_path / "out.parquet.parts"
        parts.mkdir()
        (parts / "plan.json").write_text("{}")
    elif case == "nothing there":
        source, words = tmp_path / "none", "There is no folder or list"
    elif case == "no photo":
        source, words = tmp_path / "bare", "has no photos"
        source.mkdir()
    else:
        with pytest.raises(SystemExit, match="2"):
            run(model, source, tmp_path / "out.csv")
        assert "must end in .parquet" in capsys.readouterr().err
        return
    assert run(model, source, out) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_two_ray_processes_give_the_same_rows_as_one_process(model: Path, photos: Path, tmp_path: Path):
    """The same rows in the same order, including a photo named twice and a missing one."""
    names = find_paths(photos) * 12
    (tmp_path / "list.txt").write_text("\n".join([*names, "none.jpg"]))
    assert run(model, tmp_path / "list.txt", tmp_path / "local.parquet") == 0
    assert run(model, tmp_path / "list.txt", tmp_path / "ray.parquet", "--engine", "ray") == 0
    assert pq.read_table(tmp_path / "ray.parquet").equals(pq.read_table(tmp_path / "local.parquet"))


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_leaves_one_part_of_the_answers_in_this_process(
    model: Path, tmp_path: Path, held_bytes: list[int]
):
    """It collected all rows to sort them. Here are 30,000 with long names, of photos that do not exist."""
    names = [f"{number:0200}.jpg" for number in range(30_000)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert run(model, tmp_path / "list.txt", tmp_path / "out.parquet", "--engine", "ray") == 0
    assert max(held_bytes) < 200 * 30_000 / 2
    assert [Path(path).name for path in pq.read_table(tmp_path / "out.parquet")["path"].to_pylist()] == names


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_resumes_what_one_process_began(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """This process answers ten photos, and marks them; Ray's answer the two that are missing."""
    from evaluation.batch import ray

    paths, out, scorer = find_paths(photos), tmp_path / "out.parquet", Scorer(model)
    row = Scorer.row

    def dies(self: Scorer, path: str) -> dict[str, object]:
        if path == paths[10]:
            raise KeyboardInterrupt
        return row(self, path) | {"detail": "by one process"}

    monkeypatch.setattr(Scorer, "row", dies)
    with pytest.raises(KeyboardInterrupt):
        local.score(scorer, paths, out, part_rows=5)
    assert not out.exists()
    ray.score(scorer, paths, out, model, workers=2, part_rows=5)
    table = pq.read_table(out)
    assert table["path"].to_pylist() == paths
    assert table["detail"].to_pylist()[:11] == ["by one process"] * 10 + [None]
