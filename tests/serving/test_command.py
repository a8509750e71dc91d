"""`python -m serving` and its commands: quick, and clear about what they are for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import COMMANDS, main
from serving.settings import Settings, variable
from tests.tiny import ROOT


def loaded(arguments: list[str]) -> set[str]:
    """The top-level modules that a process has loaded after running a command."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['serving', *{arguments!r}]\n"
        "try:\n    runpy.run_module('serving', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]):
    """No torch, no web framework."""
    assert not loaded(arguments) & {"torch", "litestar", "uvicorn"}


def test_the_health_check_loads_the_standard_library_alone():
    """It starts every five seconds in each container."""
    bare = [sys.executable, "-c", "import sys; print(*sys.modules)"]
    always = subprocess.run(bare, capture_output=True, text=True, check=True).stdout.split()
    others = loaded(["healthcheck", "--help"]) - set(always) - set(sys.stdlib_module_names)
    assert others <= {"common", "serving"}


def test_help_names_every_setting_and_command(capsys: pytest.CaptureFixture[str]):
    """With its default and its meaning."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for field in Settings.__struct_fields__:
        assert f"\n  {variable(field)}=" in text
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.summary in text


def test_an_unknown_command_ends_with_2(capsys: pytest.CaptureFixture[str]):
    """And the list of those that there are."""
    assert main(["predict"]) == 2
    assert "export-feedback" in capsys.readouterr().err


def test_another_file_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """It is named, nothing is written, and the file stays."""
    letter = tmp_path / "letter.txt"
    letter.write_text("dear diary, " * 100)
    assert main(["export-feedback", str(letter), str(tmp_path / "out")]) == 2
    assert "letter.txt is not a feedback database" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert letter.read_text().startswith("dear diary")
