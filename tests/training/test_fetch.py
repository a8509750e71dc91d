"""Good and bad sources: either all photos arrive, or the earlier ones stay."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import PipelineError
from common.files import sha256
from tests.pictures import encode, scene
from tests.tiny import data_config
from training.__main__ import main
from training.photos import adding, sources
from training.photos.report import Report
from training.place import Place

JPEG = encode(scene())
PLACE = Place()
"""The current folder, which is empty in each test."""


def get(source: str, **changes: str) -> Report:
    """Fetch from a source, as the command does."""
    overrides = [part for key, value in changes.items() for part in (f"--fetch.{key}", value)]
    return sources.fetch(data_config("--fetch.source", source, *overrides).fetch, PLACE)


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    """Write a zip with these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def photos(root: str = "") -> dict[str, bytes]:
    """Three cats and two dogs, as members of a zip."""
    return {f"{root}Cat/{i}.jpg": JPEG + bytes([i]) for i in range(3)} | {
        f"{root}Dog/{i}.jpg": JPEG for i in range(2)
    }


def raw() -> set[str]:
    """The files in data/raw."""
    return {path.relative_to(PLACE.raw).as_posix() for path in PLACE.raw.rglob("*") if path.is_file()}


EXPECTED = {"cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/0.jpg", "dog/1.jpg"}


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("root", ["", "PetImages/", "a/b/"])
def test_a_zip_is_laid_out_by_label(root: str, tmp_path: Path):
    """Whatever folders surround the classes; readme and system files alongside are ignored."""
    extras = {"readme.txt": b"x", "__MACOSX/Cat/0.jpg": b"x", f"{root}Cat/.DS_Store": b"x"}
    report = get(str(make_zip(tmp_path / "photos.zip", extras | photos(root))))
    assert raw() == EXPECTED
    assert (PLACE.raw / "cat/2.jpg").read_bytes() == JPEG + bytes([2])
    assert report.files == {"cat": 3, "dog": 2}
    stored = json.loads(PLACE.fetch_report.read_text())
    assert (stored["source"], stored["name"], len(stored["sha256"])) == ("archive", "photos.zip", 64)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("hidden", ["", ".hidden/"])
def test_a_folder_is_copied(tmp_path: Path, hidden: str):
    """Even from below a hidden folder; the source stays unchanged."""
    source = tmp_path / hidden / "pets"
    for name, content in photos().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    report = get(str(source))
    assert raw() == EXPECTED
    assert report.name == "pets"
    assert (source / "Cat/0.jpg").exists()


@pytest.mark.usefixtures("workplace")
def test_drawn_pictures_depend_on_the_seed_alone():
    """The same seed gives the same bytes; another seed gives others."""
    first = get("sample", sample_per_class="12")
    again = get("sample", sample_per_class="12")
    other = get("sample", sample_per_class="12", sample_seed="8")
    assert first.sha256 == again.sha256 != other.sha256
    assert first.files.keys() == {"cat", "dog"}


BAD_ZIPS = {
    "absolute": ({"/etc/Cat/1.jpg": JPEG, "Dog/1.jpg": JPEG}, "leads out"),
    "dots": ({"Cat/../../1.jpg": JPEG, "Dog/1.jpg": JPEG}, "leads out"),
    "drive": ({"C:\\Cat\\1.jpg": JPEG, "Dog/1.jpg": JPEG}, "leads out"),
    "no classes": ({"1.jpg": JPEG, "2.jpg": JPEG}, "no class folders"),
    "one class": ({"Cat/1.jpg": JPEG}, "only one class"),
    "empty class": ({"Cat/1.jpg": JPEG, "Dog/1.jpg": JPEG, "Bird/": b""}, "'Bird' has no photos"),
    "same class twice": ({"Cat/1.jpg": JPEG, "cat/2.jpg": JPEG}, "differ only in case"),
}


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    "fault", [*BAD_ZIPS, "truncated", "truncated at the end", "flipped", "no zip", "link"]
)
def test_a_bad_zip_is_reported_and_leaves_the_earlier_photos(fault: str, tmp_path: Path):
    """Every fault has its own message; the earlier photos and their report stay."""
    get(str(make_zip(tmp_path / "good.zip", photos())))
    report = PLACE.fetch_report.read_text()
    path = tmp_path / "bad.zip"
    if fault in BAD_ZIPS:
        members, words = BAD_ZIPS[fault]
        make_zip(path, members)
    else:
        data = bytearray(make_zip(path, photos()).read_bytes())
        words = "truncated or damaged"
        if fault == "truncated":
            data = data[: len(data) // 2]
        elif fault == "truncated at the end":
            data = data[:-10]
        elif fault == "flipped":
            data[300] ^= 255
        elif fault == "no zip":
            data = bytearray(b"<html>not found</html>")
        path.write_bytes(data)
        if fault == "link":
            words = "link"
            with zipfile.ZipFile(path, "w") as archive:
                info = zipfile.ZipInfo("Cat/1.jpg")
                info.external_attr = 0o120777 << 16
                archive.writestr(info, "/etc/passwd")
                archive.writestr("Dog/1.jpg", JPEG)
    with pytest.raises(PipelineError, match=words):
        get(str(path))
    assert raw() == EXPECTED
    assert PLACE.fetch_report.read_text() == report
    assert sorted(p.name for p in Path("data").iterdir()) == ["fetch.json", "raw"]


@pytest.mark.usefixtures("workplace")
def test_an_unknown_source_names_the_others():
    """A misspelt path is the usual case."""
    with pytest.raises(PipelineError, match=r"neither a known name nor an existing file.*DATA=kaggle"):
        get("no/such.zip")


@pytest.mark.usefixtures("workplace")
def test_too_little_disk_space_is_reported_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The sizes in the archive are summed first."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(PipelineError, match="Free some disk space"):
        get(str(make_zip(tmp_path / "photos.zip", photos())))
    assert not PLACE.raw.exists()


class Archive(http.server.BaseHTTPRequestHandler):
    """Serves one file with ranges; breaks the connection after `cut` bytes, `breaks` times."""

    content = b""
    breaks = 0
    changes: list[tuple[bytes, str]]
    ranges = True
    etag = '"1"'
    seen: list[str]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).seen.append(asked or "all")
        unchanged = self.headers.get("If-Range", self.etag) == self.etag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges and unchanged else 0
        part = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            part = part[: len(part) // 2]
        self.wfile.write(part)
        if type(self).changes:
            type(self).content, type(self).etag = self.changes.pop()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Archive]]]:
    """A server with one zip."""
    content = make_zip(tmp_path / "remote.zip", photos()).read_bytes()
    kind = type("Kind", (Archive,), {"content": content, "seen": [], "changes": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/pets.zip", kind
        listening.shutdown()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_resumes_where_it_was_interrupted(server: tuple[str, type[Archive]], ranges: bool):
    """Half, then half of the rest, then the rest; from a server without ranges, everything again."""
    address, kind = server
    kind.breaks, kind.ranges = 2, ranges
    report = get(address)
    assert raw() == EXPECTED
    assert report.source == "url"
    assert report.bytes == len(kind.content)
    half = len(kind.content) // 2
    assert kind.seen[:2] == ["all", f"bytes={half}-"]
    get(address)
    assert len(kind.seen) == 3, "a whole download is not repeated"


@pytest.mark.usefixtures("workplace")
def test_a_file_that_changes_while_it_is_downloaded_is_not_joined_from_halves(
    server: tuple[str, type[Archive]], tmp_path: Path
):
    """The server says that it changed, and all of it is downloaded again."""
    address, kind = server
    other = make_zip(tmp_path / "other.zip", photos() | {"Cat/more.jpg": JPEG}).read_bytes()
    kind.breaks, kind.changes = 1, [(other, '"2"')]
    assert get(address).files == {"cat": 4, "dog": 2}


@pytest.mark.usefixtures("workplace")
def test_two_addresses_with_one_file_name_are_two_archives(server: tuple[str, type[Archive]], tmp_path: Path):
    """The second is not answered with the first."""
    address, kind = server
    get(address)
    kind.content = make_zip(tmp_path / "other.zip", photos() | {"Cat/more.jpg": JPEG}).read_bytes()
    assert get(address.replace("/pets.zip", "/v2/pets.zip")).files == {"cat": 4, "dog": 2}


@pytest.mark.usefixtures("workplace")
def test_an_address_that_does_not_answer_names_the_other_sources(capsys: pytest.CaptureFixture[str]):
    """Through the command: exit 2, no traceback."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/pets.zip"
        status = main(["fetch", "--fetch.source", address])
    error = capsys.readouterr().err
    assert status == 2
    assert "cannot be reached" in error
    assert "DATA=sample" in error


@pytest.mark.usefixtures("workplace")
def test_an_error_response_is_not_saved_as_an_archive(
    server: tuple[str, type[Archive]], monkeypatch: pytest.MonkeyPatch
):
    """404 is reported as such, and nothing is kept."""
    address, kind = server
    monkeypatch.setattr(kind, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(PipelineError, match="404"):
        get(address)
    assert not [path for path in PLACE.downloads.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("workplace")
def test_ctrl_c_while_drawing_leaves_nothing_incomplete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Exit 130, and no folder under its final name."""
    count = iter(range(100))

    def draw(*_: object) -> None:
        if next(count) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("training.photos.drawn.encode", lambda *_: draw() or JPEG)
    assert main(["fetch", "--fetch.source", "sample"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(Path("data").iterdir()) == []


def add(source: Path) -> Report:
    """Add a source, as the command does."""
    return adding.add(str(source), PLACE)


@pytest.mark.usefixtures("workplace")
def test_added_photos_join_those_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From a folder and a zip of one class alone; earlier ones stay, and nothing is added twice."""
    get(str(make_zip(tmp_path / "first.zip", photos())))
    (tmp_path / "more/Dog").mkdir(parents=True)
    (tmp_path / "more/Dog/0.jpg").write_bytes(JPEG + b"new")
    report = add(tmp_path / "more")
    assert report.files == {"cat": 3, "dog": 3}
    assert report.name == "first.zip + more"
    assert "dog  1 files" in capsys.readouterr().out
    (new,) = raw() - EXPECTED
    assert raw() >= EXPECTED
    assert new.startswith("dog/added-")
    assert new.endswith("/0.jpg")
    assert (PLACE.raw / new).read_bytes() == JPEG + b"new"
    assert add(tmp_path / "more") == report, "so that a kill after the copy can be repeated"
    assert "added already" in capsys.readouterr().out
    assert add(make_zip(tmp_path / "second.zip", {"CAT/0.jpg": JPEG + b"zip"})).files == {"cat": 4, "dog": 3}
    assert json.loads(PLACE.fetch_report.read_text())["name"] == "first.zip + more + second.zip"


@pytest.mark.usefixtures("workplace")
def test_a_new_class_is_not_added_by_accident(tmp_path: Path):
    """Nor anything to nothing; what is there stays."""
    source = make_zip(tmp_path / "birds.zip", {"bird/0.jpg": JPEG, "cat/9.jpg": JPEG + b"9"})
    with pytest.raises(PipelineError, match="no photos to add to"):
        add(source)
    get(str(make_zip(tmp_path / "first.zip", photos())))
    with pytest.raises(PipelineError, match=r"'bird' is not one of the classes \(cat, dog\)"):
        add(source)
    assert raw() == EXPECTED


@pytest.mark.usefixtures("workplace")
def test_the_command_adds_what_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With DATA both in turn; without, the configured source is left alone."""
    monkeypatch.setenv("DATA", str(make_zip(tmp_path / "first.zip", photos())))
    monkeypatch.setenv("ADD", str(make_zip(tmp_path / "more.zip", {"cat/9.jpg": JPEG + b"9"})))
    assert main(["fetch"]) == 0
    monkeypatch.delenv("DATA")
    monkeypatch.setenv("ADD", str(make_zip(tmp_path / "again.zip", {"cat/8.jpg": JPEG + b"8"})))
    assert main(["fetch"]) == 0
    output = capsys.readouterr().out
    assert "there are now 7 files from archive first.zip + more.zip + again.zip (sha256" in output
    assert "): cat 5, dog 2\n" in output


@pytest.mark.parametrize("more", [False, True])
def test_photos_that_somebody_named_are_not_replaced_by_the_configured_ones(
    more: bool, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As DVC would, where it was interrupted before it recorded them; the same source may come again."""
    named = str(make_zip(workplace / "first.zip", photos()))
    monkeypatch.setenv("DATA", named)
    if more:
        monkeypatch.setenv("ADD", str(make_zip(workplace / "more.zip", {"cat/9.jpg": JPEG + b"9"})))
    assert main(["fetch"]) == 0
    monkeypatch.delenv("DATA")
    monkeypatch.delenv("ADD", raising=False)
    before = raw(), PLACE.fetch_report.read_text()
    assert main(["fetch", "--fetch.source", "sample"]) == 2
    assert "make data DATA=sample" in capsys.readouterr().err
    assert (raw(), PLACE.fetch_report.read_text()) == before
    assert main(["fetch", "--fetch.source", named]) == (2 if more else 0)
    monkeypatch.setenv("DATA", "sample")
    assert main(["fetch", "--fetch.sample_per_class", "2"]) == 0
    monkeypatch.delenv("DATA")
    assert main(["fetch", "--fetch.source", "sample", "--fetch.sample_per_class", "3"]) == 0


def test_a_named_archive_that_was_damaged_on_the_way_is_not_kept(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
):
    """The next run downloads it again, rather than failing on the same file for ever."""
    archive = make_zip(workplace / "photos.zip", {"cat/1.jpg": JPEG, "dog/1.jpg": JPEG + b"1"})
    monkeypatch.setattr(sources, "download", lambda *_: archive)
    with pytest.raises(PipelineError, match=r"photos\.zip came with SHA-256 .* not b7974bd00a84"):
        sources.fetch(data_config("--fetch.source", "microsoft").fetch, Place(workplace))
    assert not archive.exists()
    archive = make_zip(workplace / "photos.zip", {"cat/1.jpg": JPEG, "dog/1.jpg": JPEG + b"1"})
    monkeypatch.setitem(sources._SHA256, "microsoft", sha256(archive))
    sources.fetch(data_config("--fetch.source", "microsoft").fetch, Place(workplace))
    assert archive.exists()


@pytest.mark.usefixtures("workplace")
def test_added_photos_may_name_their_class_themselves(tmp_path: Path):
    """One photo of one class that is there, without a folder; a name of no class is refused."""
    get(str(make_zip(tmp_path / "first.zip", photos())))
    more = tmp_path / "more"
    more.mkdir()
    (more / "dog.900.jpg").write_bytes(JPEG + b"new")
    assert add(more).files == {"cat": 3, "dog": 3}
    (more / "dog.900.jpg").rename(more / "bat.900.jpg")
    with pytest.raises(PipelineError, match=r"such as bat\.900\.jpg"):
        add(more)
