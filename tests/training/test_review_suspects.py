"""What people decide on suspects becomes rows of the list of reviewed labels; rows that are there stay."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pandas as pd
import pytest

from common.errors import PipelineError
from common.labels import read_reviewed
from serving.contract.suspects import Said
from tests.tiny import ROOT
from training.photos.manifest import read_manifest
from training.place import Place
from training.study import decisions

CAT, DOG, NEITHER, CANNOT_TELL = ("label", "cat"), ("label", "dog"), ("neither", None), ("cannot-tell", None)
OTHER = {"cat": "dog", "dog": "cat"}
BEFORE = b'sha256,label,note\r\nlisted,cat,"a cat, asleep"\r\nz,,a logo'


def said(sha256: str, *verdicts: tuple[str, str | None]) -> Said:
    """Verdicts on a photo that is filed under dog."""
    return Said(sha256, f"data/raw/dog/{sha256}.jpg", "dog", list(verdicts))


@pytest.fixture
def audited(tmp_path: Path, drawn: Place) -> Place:
    """Drawn photos, six of which the audit suspects, in a folder with a list of its own."""
    (tmp_path / "data").symlink_to(drawn.root / "data")
    place = Place(tmp_path)
    rows = pd.read_csv(place.manifest, dtype=str).groupby("label").head(3)
    rows = rows.assign(
        suggested=rows["label"].map(OTHER), suggested_probability=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    )
    place.audit.mkdir(parents=True)
    rows.to_csv(place.audit / "suspects.csv", index=False)
    return place


def test_verdicts_become_rows_and_the_rows_that_are_there_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Byte for byte, also where a person wrote them with another system's line ends and no last one."""
    place = Place(tmp_path)
    place.reviewed.parent.mkdir()
    place.reviewed.write_bytes(BEFORE)
    people = [said("a", CAT), said("b", DOG, DOG), said("c", NEITHER), said("listed", CAT)]
    decisions.write(place, people)
    added = b"\na,cat,cat filed under dog\nb,dog,confirmed\nc,,neither\n"
    assert place.reviewed.read_bytes() == BEFORE + added
    assert read_reviewed(place.reviewed)["label"].to_dict() == {
        "listed": "cat",
        "z": "",
        "a": "cat",
        "b": "dog",
        "c": "",
    }
    assert "3 added (1 confirmed, 1 neither, 1 relabelled)" in capsys.readouterr().out
    decisions.write(place, people)
    assert place.reviewed.read_bytes() == BEFORE + added
    assert capsys.readouterr().out == ""


def test_what_is_undecided_or_contradicts_a_row_is_listed_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With the photo and both opinions."""
    place = Place(tmp_path)
    place.reviewed.parent.mkdir()
    place.reviewed.write_bytes(BEFORE)
    people = [said("a", CANNOT_TELL), said("b", CAT, NEITHER), said("listed", DOG), said("z", CAT, NEITHER)]
    decisions.write(place, people)
    assert place.reviewed.read_bytes() == BEFORE
    text = capsys.readouterr().out
    for words in (
        "dog/a.jpg, filed under dog: cannot tell\n",
        "dog/b.jpg, filed under dog: people disagree (cat, neither)\n",
        "dog/listed.jpg, filed under dog: dog, but the list says cat: edit its row if that is wrong",
        "dog/z.jpg, filed under dog: people disagree (cat, neither), but the list says to leave it out",
    ):
        assert words in text


def test_a_list_is_made_where_there_is_none(tmp_path: Path):
    """A project with other classes has none."""
    decisions.write(Place(tmp_path), [said("a", CAT)])
    assert (tmp_path / "configs/labels.csv").read_text() == "sha256,label,note\na,cat,cat filed under dog\n"


def test_the_worst_that_nobody_has_decided_are_shown(audited: Place, monkeypatch: pytest.MonkeyPatch):
    """In the order of the audit, with all classes; neither those in the list nor those that have verdicts."""
    table = pd.read_csv(audited.audit / "suspects.csv", dtype=str)
    decisions.write(audited, [said(table["sha256"][1], CAT)])
    monkeypatch.setattr(decisions, "SHOWN", 3)
    found = decisions.worst(audited, {table["sha256"][3]})
    assert found.classes == ["cat", "dog"]
    assert [photo.sha256 for photo in found.photos] == list(table["sha256"][[0, 2, 4]])
    first = found.photos[0]
    assert (first.filed, first.suggested, first.probability) == (
        table["label"][0],
        table["suggested"][0],
        0.9,
    )
    assert Path(first.path).is_file()


def test_without_an_audit_the_next_step_is_named(audited: Place):
    """None, or one of an older version."""
    table = pd.read_csv(audited.audit / "suspects.csv")
    table.drop(columns="suggested_probability").to_csv(audited.audit / "suspects.csv", index=False)
    with pytest.raises(PipelineError, match="older version"):
        decisions.worst(audited, ())
    (audited.audit / "suspects.csv").unlink()
    with pytest.raises(PipelineError, match="Look for suspects first: make audit"):
        decisions.worst(audited, ())


@pytest.mark.slow
def test_a_person_reviews_until_ctrl_c(audited: Place, environment: Callable[..., dict[str, str]]):
    """The key is printed; decisions reach training, and a second run asks only what is undecided."""
    shutil.copytree(ROOT / "models/release", audited.root / "models/release")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "training", "review-suspects"]
    settings = environment(PORT=str(port), PYTHONPATH=str(ROOT), MODEL="models/release/model.onnx")
    process = subprocess.Popen(command, cwd=audited.root, env=settings, stdout=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    assert said.startswith(f"6 photos wait. Open http://127.0.0.1:{port}/review and enter the key ")
    key = said.split()[-1]
    before = read_manifest(audited)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/review", headers={"X-API-Key": key}) as person:
        for verdict, label in (CAT, DOG, NEITHER, DOG, CANNOT_TELL):
            body = {"request_id": following(person), "reviewer": "ada", "verdict": verdict, "label": label}
            person.post("/verdicts", json=body).raise_for_status()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "configs/labels.csv: 4 added" in rest
    assert "cannot tell" in rest
    table = pd.read_csv(audited.audit / "suspects.csv", dtype=str)
    listed = read_reviewed(audited.reviewed)
    assert list(listed.index) == list(table["sha256"][:4])
    assert list(listed["note"]) == ["confirmed", "dog filed under cat", "neither", "confirmed"]
    assert read_manifest(audited).sha256 != before.sha256
    again = subprocess.run(
        [*command, "--write"], cwd=audited.root, env=settings, capture_output=True, text=True, check=True
    )
    assert "cannot tell" in again.stdout
    assert "added" not in again.stdout


def following(person: httpx.Client) -> str:
    """The photo that is shown next, once the service is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            reply = person.get("/next", params={"reviewer": "ada"})
            if reply.status_code == 200:
                return reply.json()["request_id"]
        except httpx.ConnectError:
            time.sleep(0.1)
    pytest.fail("the service did not become ready")
