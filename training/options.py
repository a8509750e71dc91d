"""A configuration file and the command line in, the configuration out (`training.config` has the schema)."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from jsonargparse import ArgumentParser, Namespace

from common.errors import PipelineError

T = TypeVar("T")


class _Parser(ArgumentParser):
    """Names the nearest known key in the error about an unknown one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002 (its signature)
        known = [action.dest for action in self._actions]
        hints = []
        for quoted in re.findall(r"(?:[Kk]ey|keys|option|--)[\s:]*['\"]?([\w.]+)", message):
            near = difflib.get_close_matches(quoted, known, n=1, cutoff=0.5)
            if near and quoted not in known:
                hints.append(f"'{quoted}' is not a key. Did you mean '{near[0]}'?")
        print(f"error: {message}", *hints, sep="\n", file=sys.stderr)
        print(f"See 'python -m {self.prog} --help' for all keys.", file=sys.stderr)
        self.exit(2)
        raise AssertionError("exit returned")


def description(docstring: str | None) -> str:
    """A command's help text: the docstring of its module, without the command line that it begins with."""
    text = (docstring or "").partition("`: ")[2]
    return text[:1].upper() + text[1:]


def parse(
    kind: type[T],
    default: Path,
    arguments: list[str],
    *,
    command: str,
    about: str,
    uses: Collection[str] | None = None,
) -> T:
    """Read `default` (or each `--config` in turn), apply the overrides and validate the result.

    Args:
        kind: What to read: `DataConfig` or `TrainConfig`.
        default: Path of its file, from `training.place`.
        arguments: Overrides, such as `--section.key value`.
        command: Name of the command that takes these options.
        about: Docstring of the command, for `--help`.
        uses: The sections that the command reads; None for all. An override of another would change nothing.

    Raises:
        PipelineError: the file does not exist.
        SystemExit: code 2 with a message that names the key, for an unknown key, one that the command does
            not use, or an invalid value.
    """
    if not default.exists():
        raise PipelineError(
            f"There is no {default} in {Path.cwd()}. Run the command in the project's folder."
        )
    parser = _Parser(
        prog=f"training {command}",
        description=description(about),
        default_config_files=[str(default)],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="A YAML file that overrides the ones before it; may be repeated."
    )
    parser.add_class_arguments(kind, as_group=False)
    namespace: Namespace = parser.parse_args(arguments)
    values = cast("dict[str, Any]", parser.instantiate(namespace).as_dict())
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for argument in arguments:
        key = argument.removeprefix("--").partition("=")[0]
        section = key.partition(".")[0]
        if uses is not None and argument.startswith("--") and section in names and section not in uses:
            parser.error(
                f"{command} does not use {key}, only {', '.join(uses)}. Give it to the command that does."
            )
    return kind(**{name: _plain(values[name]) for name in names})


def _plain(value: Any) -> Any:
    """Replace jsonargparse's subclasses of int and float, which JSON, YAML and torch cannot store."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for base in (bool, int, float):
        if isinstance(value, base):
            return base(value)
    return value
