"""What the documents say is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import deque
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.release import card
from serving.http.app import create_app
from serving.settings import Settings
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import reference

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
DOCUMENTS = [
    p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")))
]
QUESTIONS = {
    "How do I start the service?": "docs/serve.md#start-the-service",
    "How do I send a photo from curl, Python or JavaScript?": "docs/serve.md#send-a-photo",
    "What do `uncertain` and `unfamiliar` mean?": "docs/serve.md#what-uncertain-and-unfamiliar-mean",
    "Which errors can a caller meet?": "docs/reference/problems.md",
    "What happens at overload?": "docs/serve.md#what-happens-at-overload",
    "Which settings are there, and what are their defaults?": "docs/reference/settings.md",
    "How do I serve my own model?": "docs/serve.md#serve-your-own-model",
    "How do I run a model in TorchServe?": "docs/serve.md#in-torchserve",
    "What must a folder of my own photos look like?": "docs/train.md#what-your-photos-must-look-like",
    "How do I change the recipe, and what does each key mean?": "docs/reference/configuration.md",
    "How do I train on several devices?": "docs/train.md#use-gpus-several-devices-or-machines",
    "How do I deploy by digest?": "docs/deploy.md#deploy-by-digest",
    "How do I roll back?": "docs/deploy.md#roll-back",
    "What must I watch?": "docs/watch.md#what-to-watch",
    "What do I do when an alert fires?": "docs/runbook.md",
    "How do I know that the photos have drifted?": "docs/watch.md#how-to-know-that-the-photos-have-drifted",
    "How do I judge the deployed service?": "docs/evaluate.md#evaluate-the-deployed-service",
    "How do I promote a candidate?": "docs/evaluate.md#promote-a-candidate",
    "How was 99.10 % measured?": "docs/evidence.md",
    "How fast is it, and compared with what?": "docs/performance.md",
    "What is in an artefact?": "docs/reference/artefact.md",
    "How do I add a backbone?": "CONTRIBUTING.md#add-a-backbone",
    "Under which licence are code, weights and photos?": "NOTICE",
}
"""What a reader who knows the field asks, and where the answer is."""
CLICKS = 2


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(document: str) -> set[str]:
    """The files of the repository that a page links to."""
    targets = re.findall(r"\]\((?!https?:|#|\.\./\.\./)([^)#\s]+)", (ROOT / document).read_text())
    return {
        ((ROOT / document).parent / target).resolve().relative_to(ROOT.resolve()).as_posix()
        for target in targets
    }


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", ".github/workflows/ci.yml"]
)
def test_every_make_target_named_exists(path: str):
    """In the README, in CI and in the changelog."""
    text = (ROOT / path).read_text()
    named = set(re.findall(r"(?:^|`|: |; )make ([a-z][a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= TARGETS


def test_help_lists_twelve_targets_and_help_all_every_one():
    """What a newcomer needs first, and the rest."""

    def listed(target: str) -> set[str]:
        text = subprocess.run(["make", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return set(re.findall(r"^  make ([a-z-]+)", text, re.MULTILINE))

    assert len(listed("help")) == 12
    assert listed("help") < listed("help-all") == TARGETS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_files_lead_somewhere(document: str):
    """Relative links, pictures and anchors."""
    text = (ROOT / document).read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
        if target.startswith("../../actions/"):  # of the hosting site
            continue
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor[1:] in anchors(path), target + anchor


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_answered_within_two_clicks_of_the_readme(question: str):
    """The page is linked from the README or from a page that the README links to, and has the heading."""
    page, _, anchor = QUESTIONS[question].partition("#")
    distance, waiting = {"README.md": 0}, deque(["README.md"])
    while waiting:
        here = waiting.popleft()
        for there in links(here) - distance.keys():
            distance[there] = distance[here] + 1
            if there.endswith(".md"):
                waiting.append(there)
    assert distance.get(page, 99) <= CLICKS, question
    assert not anchor or anchor in anchors(ROOT / page), sorted(anchors(ROOT / page))


def test_the_readme_is_short():
    """About 900 words of prose and tables; what is in blocks of code does not count."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(prose.split()) < 1000


def test_the_reference_is_what_the_code_says():
    """Pages of docs/reference, and the rules for a cluster, as `make reference` writes them now."""
    for path, text in reference.files().items():
        assert (ROOT / path).read_text() == text, f"{path}: make reference"


def claims(first_column: str = "claim") -> list[list[str]]:
    """The rows of a table of claims: what (or on which page), figure, file, field."""
    evidence = (ROOT / "docs/evidence.md").read_text()
    table = evidence.partition(f"| {first_column} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def _item(value: Any, key: str) -> Any:
    """An item of an object or, by its number, of an array."""
    return value[int(key)] if isinstance(value, list) else value[key]


def looked_up(file: str, field: str) -> Any:
    """A value by its field in a JSON file, or by its row in the table of the benchmark."""
    text = (ROOT / file).read_text()
    if file.endswith(".md"):
        rows = re.findall(rf"^\| {re.escape(field)} \| ([\d.]+) \|", text, re.MULTILINE)
        return float(rows[0])  # of the first table: photos/s
    return reduce(_item, field.split("."), json.loads(text))


def shown(value: float, figure: str) -> str:
    """A value as the figure is written: in per cent or not, with as many digits."""
    digits = len(figure.removesuffix(" %").partition(".")[2])
    return f"{100 * value:.{digits}f} %" if figure.endswith("%") else f"{value:,.{digits}f}"


@pytest.mark.parametrize(
    "claim",
    [["README.md", *claim[1:]] for claim in claims()] + claims("page"),
    ids=lambda claim: f"{claim[0]}-{claim[2]}-{claim[3]}",
)
def test_every_claim_is_in_the_file_that_a_command_wrote(claim: list[str]):
    """The figure is the file's, rounded as shown, and the page has it."""
    page, figure, file, field = claim
    assert shown(looked_up(file, field), figure) == figure
    assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", (ROOT / page).read_text()), figure


def test_every_figure_of_the_results_is_claimed():
    """No figure stands in the README's table of results without its row in the evidence."""
    table = README.partition("## Results")[2].partition("## ")[0]
    cells = [cells.split("|")[2] for cells in re.findall(r"^\|.+\|$", table, re.MULTILINE)[2:]]
    figures = {figure for cell in cells for figure in re.findall(r"(?<!int)\d+(?:[.,]\d+)*(?: %)?", cell)}
    known = {figure for _, figure, _, _ in claims()}
    assert figures
    assert figures <= known, figures - known


def test_the_model_card_is_that_of_the_released_model():
    """Written from the files next to the model, and not changed since."""
    assert (ROOT / "docs/model-card.md").read_text() == card.markdown(ROOT / "models/release")


def test_the_routes_of_the_documentation_are_those_of_the_service():
    """Each is in the table of docs/serve.md, or below /schema and /web."""
    table = (ROOT / "docs/serve.md").read_text().replace("POST ", "").replace("GET ", "")
    routes = {route.path for route in create_app(Settings()).routes}
    for path in (route.replace(":str", "") for route in routes if not route.startswith(("/schema", "/web/"))):
        assert f"`{path}`" in table, path


def test_the_folders_of_the_readme_exist():
    """The map is of this repository."""
    folders = re.findall(r"^([a-z/]+/) {2,}", README, re.MULTILINE)
    assert len(folders) > 5
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder


def test_the_badges_are_true():
    """The Pythons are those of CI, the licence is that of the repository."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    (badge,) = re.findall(r"badge/python-(.+?)-blue", README)
    assert badge.split("%20%7C%20") == jobs["test"]["strategy"]["matrix"]["python"]
    assert "badge/licence-Apache--2.0-blue" in README
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_every_page_is_in_the_site():
    """A page that no entry of the navigation leads to would be found by none."""

    def named(entries: list[Any]) -> set[str]:
        found: set[str] = set()
        for entry in entries:
            for target in entry.values():
                found |= named(target) if isinstance(target, list) else {target}
        return found

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named(site["nav"]) == pages | {"index.md", "contributing.md", "security.md", "changelog.md"}


def test_no_file_of_the_repository_is_large_or_a_photo():
    """Models of at most 16 MB; pictures are drawn or plotted, but for the photos that NOTICE names."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = Path(ROOT, name)
        allowed = path.parent in (ROOT / "deploy/smoke", ROOT / "serving/http/web/examples")
        assert allowed or path.suffix not in (".jpg", ".jpeg"), name
        assert not path.is_file() or path.stat().st_size <= (
            16_000_000 if name.endswith((".pt", ".onnx")) else 500_000
        ), name
