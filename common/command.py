"""Run a command of a package, `python -m PACKAGE COMMAND …`; every package uses this.

A command is a function that takes its arguments and returns an exit status. It lives in a module of its own,
which is imported only when the command is called, so `--help` and a wrong name load nothing heavy. A package
whose commands are heavy declares their arguments in a light module, so `COMMAND --help` and a wrong option
load nothing heavy either.
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
    """Where a command lives and, in one sentence, what it does."""

    module: str
    """Dotted name; the module's `main` runs the command and returns its exit status."""
    summary: str
    declare: Callable[[argparse.ArgumentParser], None] | None = None
    """Declares the arguments; its docstring becomes the text of the help. With it, `main` receives the parsed
    arguments; without it, the words as typed."""


def run(package: str, commands: Mapping[str, Command], arguments: list[str]) -> int:
    """Run the command that `arguments` start with; return its exit status.

    0 means success, 1 a negative verdict (such as a failed gate), 2 a wrong call or an error printed with its
    cause and next step, 130 an interrupt.
    """
    if not arguments or arguments[0] not in commands:
        asked = arguments[:1] in (["-h"], ["--help"])
        if arguments and not asked:
            print(f"error: There is no command {arguments[0]!r}. Choose one of these.", file=sys.stderr)
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
    """Run `body`; turn an error that a person can act on into a message and an exit status."""
    try:
        return body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(
            f"error: {error.strerror or error}{where}",
            "No partial file was left in place; fix the cause and run the command again.",
            sep="\n",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print(
            "interrupted: no partial file was left in place; run the command again to resume.",
            file=sys.stderr,
        )
        return INTERRUPTED


def _help(package: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"usage: python -m {package} COMMAND [--help] …", ""]
    return "\n".join(
        [*lines, *(f"  {name:{width}}  {command.summary}" for name, command in commands.items())]
    )
