"""What the README and the how-to pages tell a person to type works as it stands."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from serving.http.predict import EXAMPLE
from tests import processes
from tests.tiny import ROOT

README = (ROOT / "README.md").read_text()
SERVE = (ROOT / "docs/serve.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(
        f"docs/{n}.md"
        for n in ("get-started", "train", "serve", "deploy", "watch", "evaluate", "loop", "runbook")
    ),
]
TYPED = "\n".join((ROOT / page).read_text() for page in PAGES)
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str, text: str = README) -> list[str]:
    """A text's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def url(environment: Callable[..., dict[str, str]]) -> Iterator[str]:
    """The released model, as `make serve` starts it, on another port."""
    with processes.service(environment()) as process:
        process.wait_for("ready")
        yield process.url


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a dog.jpg."""
    shutil.copy(ROOT / "deploy/smoke/dog.jpg", tmp_path / "dog.jpg")
    return tmp_path


def test_the_first_request_is_answered_as_shown(url: str, place: Path):
    """The curl line, and an answer with the fields that the README shows."""
    (line,) = (block.strip() for block in blocks("sh") if block.startswith("curl "))
    command = line.replace(ADDRESS, url) + " --silent --fail-with-body"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, check=True)
    (shown,) = (block for block in blocks("json") if "latency_ms" in block)
    assert re.findall(r'"(\w+)":', done.stdout) == re.findall(r'"(\w+)":', shown)
    assert '"prediction":"dog"' in done.stdout


def test_the_example_of_the_api_is_a_real_answer(url: str):
    """The released model's, of the smoke test's cat, under the project's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    with (ROOT / "deploy/smoke/cat.jpg").open("rb") as photo:
        answer = httpx.post(f"{url}/predict", files={"file": photo}).json()
    example = msgspec.to_builtins(EXAMPLE)
    assert answer.keys() == example.keys()
    for name in ("prediction", "uncertain", "unfamiliar"):
        assert answer[name] == example[name], name
    assert answer["model"] | {"name": project} == example["model"]
    assert answer["probabilities"] == pytest.approx(example["probabilities"], abs=0.01)


def test_the_python_client_works(url: str, place: Path):
    """Typed as it stands."""
    (code,) = (block for block in blocks("python", SERVE) if "tritonclient" not in block)
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, url)],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("dog 0.")


@pytest.mark.parametrize(
    "block", [b for b in blocks("sh", TYPED) if "make " in b], ids=lambda b: b.split("\n")[0][:50]
)
def test_every_make_line_is_one_that_make_takes(block: str):
    """With the variables it names; what the lines do is tested by the rooms' tests, the demo and CI."""
    for line in block.splitlines():
        command = line.split("#")[0].split("&&")[0].strip()
        if "make " in command:
            done = subprocess.run(
                ["bash", "-c", f"{command} --dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (command, done.stderr)


def test_every_command_of_the_environment_exists():
    """Programs of .venv/bin are there, and so are the packages' commands that are named."""
    for program in set(re.findall(r"\.venv/bin/([\w-]+)", TYPED)):
        assert (Path(sys.executable).parent / program).exists(), program
    for package, command in set(re.findall(r"python -m (training|evaluation|serving) ([a-z][a-z-]+)", TYPED)):
        assert command in importlib.import_module(f"{package}.__main__").COMMANDS, command
