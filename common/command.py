"""The one way in which a package's commands are run: `python -m PACKAGE COMMAND …`.

A command is a function of its arguments that returns an exit status. It lives in a module of its own, which
is imported when it is asked for: `--help` and a wrong name load nothing heavy. A package whose commands are
heavy declares their arguments in a light module, so that `COMMAND --help` and a wrong option load nothing
heavy either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from common.errors import UserError

FAILED: Final = 2
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command lives, and what it does in one sentence."""

    module: str
    """Dotted name; the module's `main` runs the command and returns its exit status."""
    summary: str
    declare: Callable[[argparse.ArgumentParser], None] | None = None
    """Declares the arguments; its docstring is the help's text. With it `main` receives the parsed arguments,
    without it the words as they were typed."""


def run(package: str, commands: Mapping[str, Command], arguments: list[str]) -> int:
    """Run the command that `arguments` begin with; return the exit status.

    0 is success, 1 a verdict against what was judged, 2 a wrong call or an error that is printed with its
    cause and next step, 130 an interrupt.
    """
    if not arguments or arguments[0] not in commands:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(_help(package, commands), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else FAILED
    name, *rest = arguments
    return guarded(lambda: _call(commands[name], f"python -m {package} {name}", rest))


def _call(command: Command, prog: str, words: list[str]) -> int:
    arguments: list[str] | argparse.Namespace = words
    if command.declare is not None:
        parser = argparse.ArgumentParser(prog=prog, description=command.declare.__doc__)
        command.declare(parser)
        arguments = parser.parse_args(words)
    status: int = import_module(command.module).main(arguments)
    return status


def guarded(body: Callable[[], int]) -> int:
    """Run `body`; turn what a person can act on into a message and a status."""
    try:
        return body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(
            f"error: {error.strerror or error}{where}",
            "Nothing half-written was left under a final name; fix the cause and run it again.",
            sep="\n",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was left; run it again to resume.", file=sys.stderr)
        return INTERRUPTED


def _help(package: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"usage: python -m {package} COMMAND [--help] …", ""]
    return "\n".join(
        [*lines, *(f"  {name:{width}}  {command.summary}" for name, command in commands.items())]
    )
