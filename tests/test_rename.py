"""`make rename` turns the repository into another project's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tiny import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
ANOTHER = f"renamed-{len(PROJECT)}-project"  # computed: a name that occurs in a file is refused
MADE_UNDER_THE_OLD_NAME = ("models/", "reports/", "CHANGELOG.md", "docs/model-card.md", "dvc.lock")
HOLD_THE_NAME = (
    *("tests/test_docs.py", "tests/test_readme.py", "tests/deploy"),
    *("tests/training/test_config.py", "tests/training/test_tracking.py"),
)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder, as a person types it."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def commit(folder: Path) -> None:
    """Commit everything."""
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    author = ("-c", "user.name=A. Person", "-c", "user.email=person@example.org")
    assert run(folder, "git", *author, "commit", "--quiet", "--message", "All").returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of a few words."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/rename.py", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a-b"\n')
    (tmp_path / "words.sh").write_text(
        "a-b a-b-api ${IMAGE:-a-b} x/a-b:1 Ba-b a-bc a-b_ cab make rename NAME=a-b\r\n"
    )
    (tmp_path / "CHANGELOG.md").write_text("a-b\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG a-b \xff")
    commit(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository, committed again elsewhere and renamed."""
    folder = tmp_path_factory.mktemp("copy")
    for name in run(
        ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard"
    ).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    commit(folder)
    done = run(folder, "make", "rename", f"NAME={ANOTHER}", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert f"Renamed to {ANOTHER}" in done.stdout
    return folder


def rename(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run the script itself."""
    return run(folder, sys.executable, "scripts/rename.py", *names)


def test_rewrites_the_name_and_what_begins_with_it(small: Path):
    """Words that merely contain the name, pictures, history and line endings stay as they are."""
    done = rename(small, "new-one")
    assert done.returncode == 0, done.stderr
    words = b"new-one new-one-api ${IMAGE:-new-one} x/new-one:1 Ba-b a-bc a-b_ cab make rename NAME=a-b\r\n"
    assert (small / "words.sh").read_bytes() == words
    assert run(small, "git", "diff", "--name-only").stdout.split() == ["pyproject.toml", "words.sh"]
    assert "4 words.sh" in done.stdout


def test_a_renamed_repository_can_be_renamed_again(small: Path):
    """Renaming there and back restores every file."""
    assert rename(small, "new-one").returncode == 0
    commit(small)
    assert rename(small, "a-b").returncode == 0
    assert not run(small, "git", "diff", "--name-only", "HEAD^").stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "name the project: make rename NAME="),
        ("Old", "'Old' cannot name images"),
        ("o_l", "use lower-case letters, digits and single dashes"),
        ("1st", "start with a letter"),
        ("end-", "cannot name"),
        ("a" * 41, "at most 40 characters"),
        ("a-b", "is already called 'a-b': choose another name"),
        ("cab", "already occurs in this repository (words.sh; files: 1)"),
    ],
)
def test_refuses_an_unusable_name_and_changes_nothing(small: Path, name: str, words: str):
    """A name must work wherever it is used, and for a later rename."""
    done = rename(small, name)
    assert done.returncode == 2
    assert words in done.stderr
    assert not run(small, "git", "status", "--porcelain").stdout


def test_refuses_a_tree_that_git_could_not_restore(small: Path):
    """Uncommitted work would be mixed with the rename."""
    (small / "words.sh").write_text("mine\n")
    assert "uncommitted changes: commit them first" in rename(small, "new-one").stderr
    assert (small / "words.sh").read_text() == "mine\n"


def test_nothing_of_the_old_name_is_left(copy: Path):
    """Except in what was made under it, and where it is an example."""
    name = re.compile(rf"(?<!\w)(?<!NAME=){PROJECT}(?!\w)", re.IGNORECASE)
    tracked = run(copy, "git", "ls-files").stdout.splitlines()
    rest = [path for path in tracked if not path.startswith(MADE_UNDER_THE_OLD_NAME)]
    assert [path for path in rest if name.search((copy / path).read_bytes().decode(errors="replace"))] == []
    assert tomllib.loads((copy / "pyproject.toml").read_text())["project"]["name"] == ANOTHER


@pytest.mark.slow
def test_the_renamed_repository_passes_its_tests(copy: Path):
    """The tests of documents, delivery, configuration and experiments, which contain the name."""
    done = run(copy, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *HOLD_THE_NAME)
    assert done.returncode == 0, done.stdout
