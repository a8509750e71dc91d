"""One rule for what is a photo and which label it has, whoever wrote the files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from common.photos import PhotosError, find_labelled, find_photos, read_names
from tests.pictures import encode, scene

JPEG = encode(scene(8, 8))


def write(folder: Path, *names: str, content: bytes = JPEG) -> None:
    """Write the same content under several names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_leftovers_are_no_photos(tmp_path: Path):
    """Neither by name nor by folder, also if the folder itself is hidden."""
    root = tmp_path / ".hidden"
    write(root, "cat/1.jpg", "cat/._1.jpg", "cat/Thumbs.db", "cat/@eaDir/1.jpg", "__MACOSX/cat/1.jpg")
    assert find_photos(root) == [root / "cat/1.jpg"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_photo_without_a_suffix_is_known_by_its_content(form: str, tmp_path: Path):
    """As is one with a suffix that nobody knows; a text is none."""
    write(tmp_path, "photo", "photo.2024", content=encode(scene(8, 8), form))
    write(tmp_path, "notes.txt", "short", content=b"no")
    assert [path.name for path in find_photos(tmp_path)] == ["photo", "photo.2024"]


def test_a_label_is_the_same_however_its_accents_are_written(tmp_path: Path):
    """On macOS an accent is a character of its own."""
    for number, form in enumerate(("NFC", "NFD")):
        write(tmp_path, f"{unicodedata.normalize(form, 'Café')}/{number}.jpg")
    assert {label for _, label in find_labelled(tmp_path)} == {"caf\u00e9"}


def test_a_class_without_a_readable_photo_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An accuracy on the other classes alone would look well."""
    write(tmp_path, "cat/1.jpg")
    write(tmp_path, "dog/1.heic", content=b"\0\0\0\x18ftypheic")
    with pytest.raises(PhotosError, match=r"The class 'dog' has no photo.*1\.heic"):
        find_labelled(tmp_path)
    write(tmp_path, "dog/2.jpg")
    assert len(find_labelled(tmp_path)) == 2
    assert "left out as no photos: 1, such as" in capsys.readouterr().err


def test_a_linked_class_folder_is_followed(tmp_path: Path):
    """A link to a folder above does not lead round and round."""
    write(tmp_path, "photos/cat/1.jpg", "elsewhere/1.jpg")
    (tmp_path / "photos/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/cat/all").symlink_to(tmp_path / "photos")
    assert {label for _, label in find_labelled(tmp_path / "photos")} == {"cat", "dog"}


def test_a_list_keeps_its_first_row_behind_a_byte_order_mark(tmp_path: Path):
    """Excel and Notepad write one; and the list may write an accent otherwise than the folder does."""
    on_disk, in_list = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFD", "NFC"))
    write(tmp_path, "1.jpg", on_disk)
    (tmp_path / "list.txt").write_text(f"1.jpg\n\n{in_list}\n", encoding="utf-8-sig")
    assert list(read_names(tmp_path / "list.txt")) == [tmp_path / "1.jpg", tmp_path / on_disk]
    (tmp_path / "labels.csv").write_text(f"path,label\n{in_list},Cat\n", encoding="utf-8-sig")
    assert find_labelled(tmp_path / "labels.csv") == [(tmp_path / on_disk, "cat")]
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(PhotosError, match="in UTF-8"):
        read_names(tmp_path / "list.txt")
