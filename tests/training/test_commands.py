"""The table of commands."""

from __future__ import annotations

import importlib

from training.__main__ import COMMANDS


def test_every_command_in_the_table_exists():
    """Its module has a `main`, and its docstring begins with the command line."""
    for name, command in COMMANDS.items():
        module = importlib.import_module(command.module)
        assert callable(module.main)
        assert module.__doc__.startswith(f"`python -m training {name}`: ")
