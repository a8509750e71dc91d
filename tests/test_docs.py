"""What the documents say is so."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from evaluation.release import card
from serving.http.app import create_app
from serving.http.problems import KINDS
from serving.settings import Settings
from tests.tiny import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("path", ["README.md", ".ci/run", ".github/workflows/ci.yml", "CHANGELOG.md"])
def test_every_make_target_named_exists(path: str):
    """In the README, in CI and in the changelog."""
    text = (ROOT / path).read_text()
    named = set(re.findall(r"(?:^|`|: |; )make ([a-z][a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= TARGETS


def test_help_lists_every_target():
    """`make help` is complete."""
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", text, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize(
    "document", [p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
)
def test_links_to_files_lead_somewhere(document: str):
    """Relative links and pictures."""
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target


def test_the_results_are_those_of_the_released_model():
    """Accuracy, interval and n in the README are the figures beside the model."""
    figures = json.loads((ROOT / "models/release/metrics.json").read_text())
    card = json.loads((ROOT / "models/release/card.json").read_text())
    accuracy = figures["accuracy"]
    for value in (accuracy["value"], accuracy["low"], accuracy["high"], figures["ece"]["value"]):
        assert f"{100 * value:.2f} %" in README
    assert f"n = {accuracy['n']:,}" in README
    int8 = json.loads((ROOT / "models/release/metrics-int8.json").read_text())
    for value in (int8["accuracy"]["value"], int8["accuracy"]["low"], int8["ece"]["value"]):
        assert f"{100 * value:.2f} %" in README
    assert int8["accuracy"]["n"] == accuracy["n"]
    assert figures["model"]["version"] == card["version"]


def test_the_model_card_is_that_of_the_released_model():
    """Written from the files beside the model, and not changed since."""
    assert (ROOT / "docs/model-card.md").read_text() == card.markdown(ROOT / "models/release")


def test_the_errors_of_the_readme_are_those_of_the_service():
    """Every problem that a caller can meet is in the table under its status."""
    table = {row[0]: row for row in re.findall(r"^\| (\d{3}) \| (.+?) \|", README, re.MULTILINE)}
    for code, kind in KINDS.items():
        if code not in ("bad-request", "not-found", "method-not-allowed", "disconnected", "internal"):
            assert re.search(rf"`(?:urn:problem:)?{code}`", table[str(kind.status)][1]), code


def test_the_routes_of_the_readme_exist():
    """And those of the service are in the README."""
    app = create_app(Settings())
    routes = {route.path for route in app.routes if not route.path.startswith("/web/")}
    for path in (route for route in routes if not route.startswith("/schema")):
        assert f"`{path}`" in README.replace("POST ", "").replace("GET ", ""), path


def test_the_folders_of_the_readme_exist():
    """The map is of this repository."""
    for folder in re.findall(r"^\| `([a-z/]+/)` \|", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_no_file_of_the_repository_is_large_or_a_photo():
    """Models of at most 16 MB, and no photograph: pictures here are drawn or plotted."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = Path(ROOT, name)
        drawn = name in ("deploy/smoke/cat.jpg", "deploy/smoke/dog.jpg")
        assert drawn or path.suffix not in (".jpg", ".jpeg"), name
        assert not path.is_file() or path.stat().st_size <= (
            16_000_000 if name.endswith(".pt") else 500_000
        ), name
