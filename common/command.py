"""Run a command of a package, `python -m PACKAGE COMMAND …`; every package uses this.

A command is a function that takes its arguments and returns an exit status. It lives in a module of its own,
which is imported only when the command is called, so `--help` and a wrong name load nothing heavy. A package
whose commands are heavy declares their arguments in a light module, so `COMMAND --help` and a wrong option
load nothing heavy either.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from common.errors import UserError

FAILED: Final = 2
INTERRUPTED: Final = 130
READER_ENDED: Final = 141
"""As the shell reports a command that SIGPIPE ended: 128 + 13."""


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
    cause and next step, 130 an interrupt, 141 that the reader of the output ended before the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding ends no command
    return guarded(lambda: _run(package, commands, arguments))


def _run(package: str, commands: Mapping[str, Command], arguments: list[str]) -> int:
    if not arguments or arguments[0] not in commands:
        asked = arguments[:1] in (["-h"], ["--help"])
        if arguments and not asked:
            _say(f"error: There is no command {arguments[0]!r}. Choose one of these.")
        if asked:
            print(_help(package, commands))
            return 0
        _say(_help(package, commands))
        return FAILED
    name, *rest = arguments
    return _call(commands[name], f"python -m {package} {name}", rest)


def _call(command: Command, prog: str, words: list[str]) -> int:
    arguments: list[str] | argparse.Namespace = words
    if command.declare is not None:
        parser = argparse.ArgumentParser(prog=prog, description=command.declare.__doc__)
        command.declare(parser)
        arguments = parser.parse_args(words)
    status: int = import_module(command.module).main(arguments)
    return status


def guarded(body: Callable[[], int]) -> int:
    """Run `body`; turn an error that a person can act on into a message and an exit status.

    A reader of the output that ends early, as in `… | head -1`, ends the command without a word.
    """
    try:
        status = _explained(body)
    finally:
        taken = _flushed()
    return status or taken


def _explained(body: Callable[[], int]) -> int:
    try:
        return body()
    except UserError as error:
        _say(f"error: {error}")
        return FAILED
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_ended():
            return READER_ENDED
        where = f": {error.filename}" if error.filename else ""
        _say(
            f"error: {error.strerror or error}{where}\n"
            "No partial file was left in place; fix the cause and run the command again."
        )
        return FAILED
    except KeyboardInterrupt:
        _say("interrupted: no partial file was left in place; run the command again to resume.")
        return INTERRUPTED


def _flushed() -> int:
    """Write what is left of the output now, since Python reports an error at the exit with a trace.

    Returns:
        0, or the status if the output cannot be written.
    """
    if sys.stdout is None:
        return 0
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return READER_ENDED
        _say(f"error: The output cannot be written: {error.strerror}.")
        return FAILED
    return 0


def _reader_ended() -> bool:
    """Whether it is standard output that lost its reader."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _say(text: str) -> None:
    """Print to standard error, if anybody takes it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _help(package: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"usage: python -m {package} COMMAND [--help] …", ""]
    return "\n".join(
        [*lines, *(f"  {name:{width}}  {command.summary}" for name, command in commands.items())]
    )
