"""In CI, too few labelled photos are a warning for a person, not a failure that rolls a good release back."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tiny import ROOT


@pytest.mark.parametrize(
    ("status", "in_ci", "exits", "verdict"),
    [
        (0, True, 0, "verdict=passes\n"),
        (1, True, 1, ""),
        (2, True, 2, ""),
        (3, True, 0, "verdict=too few photos to tell\n"),
        (3, False, 3, ""),
    ],
)
def test_the_outcome_of_a_live_evaluation_reaches_ci(
    status: int, in_ci: bool, exits: int, verdict: str, tmp_path: Path
):
    """Also by hand, where the status itself tells."""
    with zipfile.ZipFile(tmp_path / "labelled.zip", "w") as archive:
        archive.writestr("cat/1.jpg", b"x")
    for name, lines in (
        ("python", f'test -f "$7/cat/1.jpg" || exit 9; exit {status}'),
        ("python3", 'exec /usr/bin/env -u PATH "$REAL" "$@"'),
    ):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{lines}\n")
        script.chmod(0o755)
    output = tmp_path / "output"
    output.touch()
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "REAL": sys.executable,
        "URL": "http://127.0.0.1:9",
        "LABELLED_URL": (tmp_path / "labelled.zip").as_uri(),
        "GITHUB_OUTPUT": str(output) if in_ci else "",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "deploy/evaluate.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exits, done.stderr
    assert output.read_text() == verdict
    assert ("::warning::" in done.stdout) == (verdict.startswith("verdict=too few"))
