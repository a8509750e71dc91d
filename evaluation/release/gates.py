"""Figures against `configs/gates.yaml`: a verdict with reasons."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from common.errors import UserError

GATES: Final = Path("configs/gates.yaml")


class GateError(UserError):
    """The gates' file cannot be used; the text names the cause."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says."""

    gate: str
    passed: bool
    reason: str


def read_gates(section: str, known: Mapping[str, str], path: Path = GATES) -> dict[str, float]:
    """The limits of one section.

    Args:
        section: offline or live.
        known: The figure each gate looks at, by gate name; every gate must be known.
        path: The YAML file.

    Raises:
        GateError: no such file or section, an unknown gate, or a limit that is no number.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GateError(f"There are no gates at {path}.") from error
    except yaml.YAMLError as error:
        raise GateError(f"{path} is not valid YAML: {error}") from error
    gates = content.get(section) if isinstance(content, dict) else None
    if not isinstance(gates, dict):
        raise GateError(f"{path} has no section {section!r}.")
    for name, limit in gates.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise GateError(f"{path}: {section}.{name} is not a gate. {hint}")
        if not isinstance(limit, int | float) or isinstance(limit, bool):
            raise GateError(f"{path}: {section}.{name} must be a number, not {limit!r}.")
    return {name: float(limit) for name, limit in gates.items()}


def judge(figures: Mapping[str, Any], gates: Mapping[str, float], known: Mapping[str, str]) -> list[Verdict]:
    """Hold figures to limits; a gate named `*_min` is a floor, `*_max` a ceiling.

    A figure that is missing or not a number fails its gate.
    """
    verdicts = []
    for gate, limit in gates.items():
        value = lookup(figures, known[gate])
        floor = gate.endswith("_min")
        passed = value is not None and (value >= limit if floor else value <= limit)
        shown = "missing" if value is None else f"{value:.4g}"
        sign = ("≥" if floor else "≤") if passed else ("<" if floor else ">")
        verdicts.append(Verdict(gate, passed, f"{known[gate]} {shown} {sign} {limit:g}"))
    return verdicts


def lookup(figures: Mapping[str, Any], dotted: str) -> float | None:
    """The number at `a.b.c`, or None."""
    value: Any = figures
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def show(verdicts: list[Verdict]) -> str:
    """One line a gate."""
    return "\n".join(f"{'PASS' if v.passed else 'FAIL'}  {v.gate:18} {v.reason}" for v in verdicts)
