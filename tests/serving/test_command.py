"""`python -m serving` and its commands: quick, and clear about what they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import COMMANDS, main
from serving.settings import Settings, variable
from tests.tiny import ROOT


def test_help_names_every_setting_and_command(capsys: pytest.CaptureFixture[str]):
    """Settings with their defaults and meanings, commands with their summaries."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for field in Settings.__struct_fields__:
        assert f"\n  {variable(field)}=" in text
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.summary in text


def test_an_unknown_command_ends_with_2(capsys: pytest.CaptureFixture[str]):
    """The message names it, and lists the commands that exist."""
    assert main(["predict"]) == 2
    said = capsys.readouterr().err
    assert "error: There is no command 'predict'. Choose one of these." in said
    assert "export-feedback" in said


@pytest.mark.parametrize("package", ["serving", "evaluation", "training"])
def test_a_reader_that_ends_early_ends_the_command(package: str):
    """As in `… --help | head -0`: no trace, and the status of a command that SIGPIPE ended."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", package, "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_reported_once():
    """The output is lost; the message says why, without a trace."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "serving", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("No space left on device") == 1
    assert "Traceback" not in done.stderr


def test_another_file_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The error names it, nothing is written, and the file is unchanged."""
    letter = tmp_path / "letter.txt"
    letter.write_text("dear diary, " * 100)
    assert main(["export-feedback", str(letter), str(tmp_path / "out")]) == 2
    assert "letter.txt is not a feedback database" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert letter.read_text().startswith("dear diary")
