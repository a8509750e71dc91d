"""`make lint-delivery` reports what it cannot check."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.tiny import ROOT

LINTERS = (
    "hadolint",
    "actionlint",
    "zizmor",
    "check-jsonschema",
    "yamllint",
    "shellcheck",
    "kubernetes-validate",
)
NEEDED = ("bash", "dirname", "git", "xargs", "id")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The only folder on PATH: linters that find nothing, without kubectl and apt-get."""
    for name in NEEDED:
        (tmp_path / name).symlink_to(
            subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        )
    for name in LINTERS:
        program(tmp_path / name, "exit 0")
    return tmp_path


def program(path: Path, text: str) -> None:
    """Write an executable script."""
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def lint(programs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run deploy/lint.sh with only these programs."""
    clean = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        ["bash", str(ROOT / "deploy/lint.sh")],
        env=clean | {"PATH": str(programs)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kubectl", ["none", "Client Version: version.Info{GitVersion:v1.20.2}"])
def test_overlays_that_cannot_be_rendered_are_named_and_fail_in_ci(programs: Path, kubectl: str):
    """On a developer's machine the last line says so; in CI it is an error."""
    if kubectl != "none":
        program(programs / "kubectl", f"echo '{kubectl}'")
    done = lint(programs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOT CHECKED: deploy/kubernetes/overlays" in done.stdout.splitlines()[-1]
    done = lint(programs, CI="true")
    assert done.returncode == 1
    assert "error: NOT CHECKED: deploy/kubernetes/overlays" in done.stderr
    assert "no problems found" not in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can install")
def test_a_missing_kubectl_is_installed_where_possible(programs: Path):
    """As root on Debian, apt-get is tried; its failure does not stop the script."""
    program(programs / "apt-get", f'echo "$*" >>{programs}/asked; exit 100')
    assert "NOT CHECKED" in lint(programs).stdout
    assert (programs / "asked").read_text() == "update -qq\n"
