"""The lock files install the same versions on every Python and from any index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.tiny import ROOT

LOCKS = {path.stem: path for path in (ROOT / "requirements").glob("*.txt")}
UNHASHED = {"torch", "torch-cuda"}  # they come from other indexes, as other files


def pins(path: Path) -> dict[str, str]:
    """The version of each package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index(name: str):
    """Each machine configures its own index."""
    assert not re.search(r"://|^-", LOCKS[name].read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(LOCKS.keys() - UNHASHED))
def test_every_pin_of_a_lock_has_its_hashes(name: str):
    """So pip and uv install nothing else under that version."""
    for pin in re.split(r"^(?=\w)", LOCKS[name].read_text(), flags=re.MULTILINE)[1:]:
        assert " \\\n    --hash=sha256:" in pin, pin


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        *(("serve", "train"), ("serve", "torchserve"), ("train", "dev"), ("otel", "dev"), ("train", "ray")),
        ("dev", "browser"),
    ],
)
def test_a_larger_lock_changes_nothing_of_the_smaller(inner: str, outer: str):
    """They are installed on top of one another."""
    smaller = pins(LOCKS[inner])
    assert smaller
    assert smaller.items() <= pins(LOCKS[outer]).items()


def test_ci_tries_every_python_that_the_makefile_takes():
    """The lowest is also that of the metadata, the linter and the locks."""
    makefile = (ROOT / "Makefile").read_text()
    lowest, highest = map(int, re.search(r"\(3, (\d+)\) <= now <= \(3, (\d+)\)", makefile).groups())
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    tried = jobs["test"]["strategy"]["matrix"]["python"]
    assert tried == [f"3.{minor}" for minor in range(lowest, highest + 1)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == f">=3.{lowest}"
    assert project["tool"]["ruff"]["target-version"] == f"py3{lowest}"
    assert f"--python-version 3.{lowest} " in (ROOT / "scripts/lock.sh").read_text()
