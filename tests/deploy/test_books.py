"""The saved state of a host, its journal and its lock."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from host.books import Books
from host.errors import DeployError, LockedError, WrongCallError
from tests.deploy.conftest import RELEASE


def test_another_process_reads_what_was_saved(tmp_path: Path):
    """The same releases and the same phase."""
    books = Books(tmp_path / "state")
    books.state.active, books.state.phase = RELEASE, "draining"
    books.save()
    read = Books(tmp_path / "state").state
    assert (read.active, read.previous, read.candidate, read.phase) == (RELEASE, None, None, "draining")
    assert read.active.digest == "sha256:" + "c" * 64


def test_a_crash_while_saving_leaves_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file is never half written."""
    books = Books(tmp_path)
    books.state.active = RELEASE
    books.save()
    books.state.active = None

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DeployError, match="no space"):
            books.save()
    assert Books(tmp_path).state.active == RELEASE


def test_the_journal_has_one_line_per_event(tmp_path: Path):
    """Each has its time; they are in order."""
    books = Books(tmp_path)
    books.note("deployed", image="a", model="1")
    books.note("refused", image="b", reason="two\nlines")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line.pop("time")[-1] for line in lines] == ["Z", "Z"]
    assert lines == [
        {"event": "deployed", "image": "a", "model": "1"},
        {"event": "refused", "image": "b", "reason": "two\nlines"},
    ]


def test_the_lock_has_one_holder_and_brings_the_latest_state(tmp_path: Path):
    """The error names the holder; once the lock is free, the next holder reads what the first one saved."""
    first, second = Books(tmp_path), Books(tmp_path)
    with first.locked():
        with pytest.raises(
            LockedError, match=rf"Another deploy is running here \(process {os.getpid()}\)\. Wait"
        ):
            second.locked().__enter__()
        first.state.active = RELEASE
        first.save()
    with second.locked():
        assert second.state.active == RELEASE


def test_a_folder_that_cannot_be_created_is_named_with_the_option(tmp_path: Path):
    """For example, an operator without permission."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        WrongCallError, match=r"cannot create .*file/state: .* Choose another folder with --state\."
    ):
        Books(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"active": null}', '{"active": {"image": "x"}, "phase": "idle"}']
)
def test_a_damaged_state_is_reported_and_not_guessed(tmp_path: Path, text: str):
    """What runs here is then unknown, so nothing starts."""
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(WrongCallError, match=r"state\.json is damaged .* deploy\.state="):
        Books(tmp_path)
