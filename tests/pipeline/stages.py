"""What each stage declares in dvc.yaml and what its code imports, as comparable sets of paths."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import ROOT

PACKAGES = ("common", "training", "evaluation", "serving", "bench")


@dataclass(frozen=True)
class Stage:
    """One stage, as declared."""

    name: str
    module: str
    """Module of the command that it runs."""
    reads: frozenset[str]
    """Dependencies and parameter files."""
    writes: frozenset[str]
    """Outputs and metrics."""


def declared(root: Path = ROOT) -> dict[str, Stage]:
    """The stages of dvc.yaml by name."""
    content = yaml.safe_load((root / "dvc.yaml").read_text())
    return {name: _stage(name, stage) for name, stage in content["stages"].items()}


def _stage(name: str, stage: dict[str, Any]) -> Stage:
    _, _, package, command, *_ = stage["cmd"].split()  # python -m package command
    commands = importlib.import_module(f"{package}.__main__").COMMANDS
    return Stage(
        name,
        commands[command].module,
        frozenset(_paths([*stage.get("deps", []), *stage.get("params", [])])),
        frozenset(_paths([*stage.get("outs", []), *stage.get("metrics", [])])),
    )


def _paths(entries: Iterable[str | dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        yield from [entry] if isinstance(entry, str) else entry


def uncovered(paths: Iterable[str], declared_paths: Iterable[str]) -> list[str]:
    """The paths that are neither declared nor in a declared folder."""
    folders = set(declared_paths)
    return sorted(
        path for path in paths if not folders & {path, *(parent.as_posix() for parent in Path(path).parents)}
    )


def closure(module: str, root: Path = ROOT) -> set[str]:
    """Paths of `module` and of all our modules that it imports, at the top or in a function."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = _file(waiting.pop(), root)
        if path is not None and path.relative_to(root).as_posix() not in found:
            found.add(path.relative_to(root).as_posix())
            waiting += _imported(path, root)
    return found


def _file(module: str, root: Path) -> Path | None:
    """File of one of our modules; None for others, or for a name in a module."""
    if module.split(".", maxsplit=1)[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _imported(path: Path, root: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path} imports relatively"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if _file(name, root) else node.module for name in inner)
