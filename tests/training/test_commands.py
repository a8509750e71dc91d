"""Help costs no torch, and neither do fetching and preparing photos."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.tiny import ROOT
from training.__main__ import COMMANDS

_RUN = """
import sys
from training.__main__ import main

for line in sys.argv[1:]:
    try:
        status = main(line.split())
    except SystemExit as end:
        status = end.code
    assert status == 0, line
    heavy = {"torch", "lightning", "mlflow", "torchvision", "timm", "pandas", "sklearn", "matplotlib"}
    print("loaded after", line, *sorted(heavy & sys.modules.keys()), sep=";")
"""


def loaded(environment: Callable[..., dict[str, str]], folder: Path, *lines: str) -> dict[str, set[str]]:
    """What commands have loaded by their end, run one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *lines],
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(";") for line in done.stdout.splitlines() if line.startswith("loaded after;")]
    return {row[1]: set(row[2:]) for row in rows}


def test_help_loads_nothing_heavy(workplace: Path, environment: Callable[..., dict[str, str]]):
    """The list of commands, and each command's options."""
    lines = ["--help", *(f"{name} --help" for name in COMMANDS)]
    found = loaded(environment, workplace, *lines)
    assert list(found) == lines
    assert not set().union(*found.values())


def test_fetch_and_prepare_load_no_torch(workplace: Path, environment: Callable[..., dict[str, str]]):
    """They read and write photos and tables."""
    fetch = "fetch --fetch.source sample --fetch.sample_per_class 12"
    found = loaded(environment, workplace, fetch, "prepare")
    assert found == {fetch: set(), "prepare": {"pandas"}}


def test_every_command_is_where_the_table_says():
    """Its module has a `main`, and its first line says how it is called."""
    for name, command in COMMANDS.items():
        module = importlib.import_module(command.module)
        assert callable(module.main)
        assert module.__doc__.startswith(f"`python -m training {name}`: ")
