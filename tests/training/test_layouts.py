"""However people lay out their photos, the classes are found, or the error says what was seen."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import pytest

from common.errors import PipelineError
from tests.pictures import encode, scene
from tests.tiny import data_config
from training.__main__ import main
from training.photos import sources
from training.photos.layout import understand
from training.photos.report import Report
from training.photos.table import from_table
from training.place import Place

JPEG = encode(scene())
PLACE = Place()
"""The current folder, which is empty in each test."""


def numbered(folder: str, count: int, start: int = 0) -> list[str]:
    """File names in a folder."""
    return [f"{folder}/{number}.jpg" for number in range(start, start + count)]


def counts(names: Iterable[str]) -> dict[str, int]:
    """What is understood of these names: files by label."""
    return understand([PurePosixPath(name) for name in names]).counts


LAYOUTS = {
    "a folder per class": ([*numbered("Cat", 3), *numbered("Dog", 2)], {"cat": 3, "dog": 2}),
    "folders around the classes": (
        [*numbered("a/b/Cat", 3), *numbered("a/b/Dog", 2), "a/readme.txt"],
        {"cat": 3, "dog": 2},
    ),
    "splits with classes": (
        [
            *numbered("train/cat", 4),
            *numbered("train/dog", 5),
            *numbered("val/cat", 1),
            *numbered("val/dog", 2),
        ],
        {"cat": 5, "dog": 7},
    ),
    "a split that lacks a class": (
        [*numbered("train/cat", 4), *numbered("train/dog", 5), *numbered("val/cat", 2)],
        {"cat": 6, "dog": 5},
    ),
    "splits in splits": (
        [
            *numbered("training_set/training_set/cats", 4),
            *numbered("training_set/training_set/dogs", 4),
            *numbered("test_set/test_set/cats", 1),
            *numbered("test_set/test_set/dogs", 1),
        ],
        {"cats": 5, "dogs": 5},
    ),
    "folders within a class": (
        [*numbered("cat/indoor", 2), *numbered("cat/outdoor", 3), *numbered("dog", 4)],
        {"cat": 5, "dog": 4},
    ),
    "splits within a class": (
        [*numbered("cat/train", 2), *numbered("cat/test", 3), *numbered("dog/train", 4)],
        {"cat": 5, "dog": 4},
    ),
    "a class named train": (
        [*numbered("car", 2), *numbered("plane", 3), *numbered("train", 4)],
        {"car": 2, "plane": 3, "train": 4},
    ),
    "what tools leave behind": (
        [
            *numbered("cat", 2),
            *numbered("dog", 2),
            *("cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "dog/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg"),
            *(".thumbnails/0.jpg", "__MACOSX/cat/._0.jpg", "cat/._0.jpg", "cat/Thumbs.db", "dog/desktop.ini"),
        ],
        {"cat": 2, "dog": 2},
    ),
    "a competition": (
        [f"train/{label}.{n}.jpg" for label in ("cat", "dog") for n in range(3)] + numbered("test1", 4),
        {"cat": 3, "dog": 3},
    ),
    "names alone": (
        [f"{label}.{n}.jpg" for label in ("cat", "dog") for n in range(3)],
        {"cat": 3, "dog": 3},
    ),
    "names with words": (
        ["american_bulldog_1.jpg", "american_bulldog_203.jpg", "Sphynx (1).jpg", "Sphynx (2).jpg"],
        {"american_bulldog": 2, "sphynx": 2},
    ),
    "a stray photo above the classes": (
        ["cover.jpg", *numbered("pets/cat", 2), *numbered("pets/dog", 2)],
        {"cat": 2, "dog": 2},
    ),
    "documents alongside the classes": (
        [*numbered("cat", 2), *numbered("dog", 2), "docs/licence.pdf", "readme.txt"],
        {"cat": 2, "dog": 2},
    ),
    "names that look like numbers": (
        [*numbered("001", 2), *numbered("1e3", 2), *numbered("nan", 2), *numbered("true", 1)],
        {"001": 2, "1e3": 2, "nan": 2, "true": 1},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finds_the_classes(layout: str):
    """From the names alone."""
    names, expected = LAYOUTS[layout]
    assert counts(names) == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["IMG_0001.jpg", "IMG_0002.jpg", "DSC_0001.jpg", "DSC_0002.jpg"], "4 photos lie in no folder"),
        ([*numbered("train", 3), *numbered("test", 3)], "lie in test, train, such as 0.jpg"),
        ([*numbered("pets/cat", 3)], r"only one class \(pets/cat\)"),
        (["cat.0.jpg", "cat.1.jpg"], "no class folders"),
        ([".hidden/1.jpg", "Thumbs.db"], "no photos"),
        ([*numbered("Cat", 3), *numbered("cat", 3)], "differ only in case"),
    ],
)
def test_says_what_it_saw_where_names_tell_no_classes(names: list[str], words: str):
    """With what was expected, and the other sources."""
    with pytest.raises(PipelineError, match=words):
        counts(names)


def test_says_what_it_leaves_out():
    """By reason, with an example."""
    names = [f"train/{label}.{n}.jpg" for label in ("cat", "dog") for n in range(3)]
    text = understand(
        [PurePosixPath(name) for name in [*names, *numbered("test1", 4), ".DS_Store"]]
    ).described()
    assert text == (
        "the splits test1, train, joined:\n"
        "  cat  3 files\n"
        "  dog  3 files\n"
        "  left out: 1 system files, such as .DS_Store\n"
        "  left out: 4 files of test1 without a label, such as test1/0.jpg"
    )


TABLES = {
    "paths": ("path,label\nimages/0.jpg,Cat\nimages/1.jpg,dog\nimages/2.jpg,dog\n", {"cat": 1, "dog": 2}),
    "names and semicolons": ("label;file\ncat;0.jpg\ndog;1.jpg\ndog;2.jpg\n", {"cat": 1, "dog": 2}),
    "names without suffix": ("id,breed\n0,pug\n1,boxer\n2,boxer\n9,pug\n", {"pug": 1, "boxer": 2}),
    "a byte order mark": ("\ufeffpath,label\nimages/0.jpg,cat\nimages/1.jpg,dog\n", {"cat": 1, "dog": 1}),
    "other columns": ("id,width,class,sex\n0,9,001,f\n1,9,true,m\n2,9,,m\n", {"001": 1, "true": 1}),
    "rows without a photo": (
        "path,label\nimages/0.jpg,cat\nimages/1.jpg,dog\n7.jpg,dog\n",
        {"cat": 1, "dog": 1},
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_reads_labels_from_a_table(kind: str):
    """Whatever its columns and separator; labels are text."""
    text, expected = TABLES[kind]
    names = [PurePosixPath(name) for name in numbered("images", 3)]
    layout = from_table(PurePosixPath("labels.csv"), text.encode(), names)
    assert layout is not None
    assert layout.counts == expected


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "path,width,height\nimages/0.jpg,3,4\n", "\xff\xfe\0"])
def test_a_table_of_something_else_is_none(text: str):
    """Sizes, addresses, or no table at all."""
    names = [PurePosixPath(name) for name in numbered("images", 3)]
    assert from_table(PurePosixPath("labels.csv"), text.encode("latin-1"), names) is None


def test_a_label_that_cannot_be_a_folder_is_reported():
    """With the label."""
    with pytest.raises(PipelineError, match=r"the label 'a/\.\./b'"):
        from_table(PurePosixPath("l.csv"), b"path,label\n0.jpg,a/../b\n", [PurePosixPath("0.jpg")])


def as_folder(path: Path, names: Iterable[str]) -> Path:
    """Photos in a folder, each with other bytes."""
    for name in names:
        file = Path(os.fsdecode(os.fsencode(path / name)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(JPEG + name.encode(errors="replace"))
    return path


def as_zip(path: Path, names: Iterable[str]) -> Path:
    """Photos in a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, JPEG + bytes([number]))
    return path


def as_tar(path: Path, names: Iterable[str]) -> Path:
    """Photos in a compressed tar."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member, data = tarfile.TarInfo(name), JPEG + name.encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def get(source: Path, *overrides: str) -> Report:
    """Fetch from a source, as the command does."""
    report = sources.fetch(data_config("--fetch.source", str(source), *overrides).fetch, PLACE)
    assert report is not None
    return report


def raw() -> set[str]:
    """The files in data/raw."""
    return {path.relative_to(PLACE.raw).as_posix() for path in PLACE.raw.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("pack", [as_folder, as_zip, as_tar])
def test_joins_splits_from_each_kind_of_source(pack: Callable[[Path, Iterable[str]], Path], tmp_path: Path):
    """Photos of one name in two splits are both kept."""
    report = get(pack(tmp_path / "pets", LAYOUTS["splits with classes"][0]))
    assert report.files == {"cat": 5, "dog": 7}
    assert {"cat/train/0.jpg", "cat/val/0.jpg"} <= raw()
    assert len({(PLACE.raw / f"cat/{split}/0.jpg").read_bytes() for split in ("train", "val")}) == 2


@pytest.mark.usefixtures("workplace")
def test_a_linked_class_folder_is_followed(tmp_path: Path):
    """A link to itself is not."""
    as_folder(tmp_path / "elsewhere", numbered("cats", 2))
    pets = as_folder(tmp_path / "pets", numbered("dog", 3))
    (pets / "cat").symlink_to(tmp_path / "elsewhere/cats")
    (pets / "dog/again").symlink_to(pets)
    assert get(pets).files["cat"] == 2


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("pack", [as_folder, as_zip])
def test_backslashes_in_names_separate_folders(pack: Callable[[Path, Iterable[str]], Path], tmp_path: Path):
    """As Windows tools write them, and as others unpack them."""
    names = ["pets\\cat\\1.jpg", "pets\\dog\\1.jpg"]
    assert get(pack(tmp_path / "pets", names)).files == {"cat": 1, "dog": 1}
    assert raw() == {"cat/1.jpg", "dog/1.jpg"}


@pytest.mark.usefixtures("workplace")
def test_names_in_utf8_without_the_flag_are_right(tmp_path: Path):
    """As many zip tools write them; no class is called ├╝."""
    path = as_zip(tmp_path / "pets.zip", ["Xer-/1.jpg", "Hund/1.jpg"])
    path.write_bytes(path.read_bytes().replace(b"Xer-/1.jpg", "Üer/1.jpg".encode()))
    assert get(path).files == {"hund": 1, "üer": 1}


@pytest.mark.usefixtures("workplace")
def test_names_that_are_not_utf8_are_kept(tmp_path: Path):
    """Read as Windows-1252, so that the manifest can hold them."""
    folder = os.fsencode(as_folder(tmp_path / "pets", numbered("hund", 2)))
    Path(os.fsdecode(folder + b"/K\xe4tzchen")).mkdir()
    Path(os.fsdecode(folder + b"/K\xe4tzchen/1\xfc.jpg")).write_bytes(JPEG)
    assert get(tmp_path / "pets").files == {"hund": 2, "kätzchen": 1}
    assert "kätzchen/1ü.jpg" in raw()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_a_link_or_device_is_refused(kind: bytes, tmp_path: Path):
    """Like a zip with a link."""
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("cat/1.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(PipelineError, match="link or device"):
        get(path)
    assert not PLACE.raw.exists()


@pytest.mark.usefixtures("workplace")
def test_a_tar_that_leads_out_is_refused(tmp_path: Path):
    """Like a zip that does."""
    with pytest.raises(PipelineError, match="leads out"):
        get(as_tar(tmp_path / "pets.tgz", ["../cat/1.jpg", "dog/1.jpg"]))
    assert not PLACE.raw.exists()


@pytest.mark.usefixtures("workplace")
def test_a_truncated_tar_is_reported(tmp_path: Path):
    """And the earlier photos stay."""
    path = as_tar(tmp_path / "pets.tgz", [*numbered("cat", 9), *numbered("dog", 9)])
    get(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PipelineError, match="truncated or damaged"):
        get(path)
    assert len(raw()) == 18


@pytest.mark.usefixtures("workplace")
def test_a_table_alongside_the_photos_gives_the_labels(tmp_path: Path):
    """In a folder or archive, or named itself; it wins over folders that are no classes."""
    pets = as_folder(tmp_path / "pets", [*numbered("00", 2), *numbered("01", 2, start=2)])
    (pets / "labels.csv").write_text("id,breed\n0,pug\n1,beagle\n2,pug\n3,beagle\n")
    assert get(pets).files == {"beagle": 2, "pug": 2}
    assert get(pets / "labels.csv").source == "table"
    assert raw() == {"beagle/00/1.jpg", "beagle/01/3.jpg", "pug/00/0.jpg", "pug/01/2.jpg"}


@pytest.mark.usefixtures("workplace")
def test_a_dry_run_prints_what_is_understood_and_copies_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The classes with their counts, and what is left out."""
    pets = as_folder(tmp_path / "pets", [*numbered("a/cat", 2), *numbered("a/dog", 1), "a/cat/Thumbs.db"])
    monkeypatch.setenv("DATA", str(pets))
    assert main(["fetch", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "class folders in a:\n  cat  2 files\n  dog  1 files\n"
        "  left out: 1 system files, such as a/cat/Thumbs.db\n"
    )
    assert not PLACE.raw.exists()


@pytest.mark.usefixtures("workplace")
def test_the_owner_s_test_split_is_kept_on_demand(tmp_path: Path):
    """The report names its folders; a source without one is refused."""
    names = [*LAYOUTS["splits with classes"][0], *numbered("test/cat", 1), *numbered("test/dog", 1)]
    report = get(as_folder(tmp_path / "pets", names), "--fetch.keep_split", "true")
    assert report.kept_test == ["test"]
    with pytest.raises(PipelineError, match="has no test split"):
        get(as_folder(tmp_path / "other", LAYOUTS["a folder per class"][0]), "--fetch.keep_split", "true")
