"""Results judged by `configs/gates.yaml`: a verdict with its reason for each gate.

A gate is named for the number that it limits: `accuracy_min` is a floor for the result's `accuracy`,
`ece_max` a ceiling for its `ece`. The names are checked against the result's type before any computation.

A figure with an interval is judged by the interval: it passes if all of it is within the limit, fails if all
of it is beyond, and otherwise there are too few photos to tell.
"""

from __future__ import annotations

import difflib
import enum
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from common.errors import UserError

GATES: Final = Path("configs/gates.yaml")
SECTIONS: Final = ("offline", "live", "consistency", "promotion")
_BOUNDS: Final = ("min", "max")

T = TypeVar("T")


class GateError(UserError):
    """The gates file cannot be used; the text names the cause and the next step."""


class Outcome(enum.IntEnum):
    """What a gate, or all gates together, say; the value is the exit status."""

    PASS = 0
    FAIL = 1
    TOO_FEW = 3
    """The photos cannot tell: neither shown to be within the limit nor shown to be beyond it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one gate."""

    gate: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Gates(Generic[T]):
    """The limits of one section, for results of the type `T`."""

    limits: dict[str, float]
    """By gate: the name of a number of `T`, followed by `_min` or `_max`."""

    def judge(self, result: T) -> list[Verdict]:
        """A verdict for each gate; a number that is missing or undefined fails its gate."""
        return [_judge(result, gate, limit) for gate, limit in self.limits.items()]


def _judge(result: object, gate: str, limit: float) -> Verdict:
    name, _, bound = gate.rpartition("_")
    found = getattr(result, name)
    value = getattr(found, "value", found)
    if value is None or math.isnan(value):
        return Verdict(gate, Outcome.FAIL, f"{name} is missing")
    low, high = getattr(found, "low", value), getattr(found, "high", value)
    within, beyond = (low >= limit, high < limit) if bound == "min" else (high <= limit, low > limit)
    outcome = Outcome.PASS if within else Outcome.FAIL if beyond else Outcome.TOO_FEW
    interval = f" [{low:.4g}, {high:.4g}]" if hasattr(found, "low") else ""
    sign = {"min": "≥" if within else "<", "max": "≤" if within else ">"}[bound]
    told = f"{sign} {limit:g}" if outcome != Outcome.TOO_FEW else f"includes {limit:g}"
    return Verdict(gate, outcome, f"{name} {value:.4g}{interval} {told}")


def overall(verdicts: Iterable[Verdict]) -> Outcome:
    """FAIL if a gate fails, else TOO_FEW if the photos cannot tell for one, else PASS."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return next((one for one in (Outcome.FAIL, Outcome.TOO_FEW) if one in outcomes), Outcome.PASS)


def read_gates(section: str, result: type[T], path: Path = GATES) -> Gates[T]:
    """The limits of one section.

    Args:
        section: One of `SECTIONS`.
        result: Type of the results to judge; every gate must name a number of it.
        path: The YAML file.

    Raises:
        GateError: the file is missing, a section is unknown, a gate names no number of the result, or a limit
            is not a number.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GateError(
            f"There are no gates at {path}. Run this in the project's folder, or name a file: --gates FILE."
        ) from error
    except yaml.YAMLError as error:
        raise GateError(f"{path} is not valid YAML. Correct it: {error}") from error
    sections = content if isinstance(content, dict) else {}
    for name in sections:
        if name not in SECTIONS:
            raise GateError(f"{path}: {name} is not a section. {_nearest(str(name), SECTIONS)}")
    limits = sections.get(section)
    if not isinstance(limits, dict):
        raise GateError(f"{path} has no section {section!r}. Add it, with its gates; {GATES} is an example.")
    known = [f"{name}_{bound}" for name in numbers(result) for bound in _BOUNDS]
    for gate, limit in limits.items():
        if gate not in known:
            raise GateError(f"{path}: {section}.{gate} is not a gate. {_nearest(str(gate), known)}")
        if not isinstance(limit, int | float) or isinstance(limit, bool):
            raise GateError(f"{path}: {section}.{gate} must be a number, not {limit!r}. Correct it.")
    return Gates({gate: float(limit) for gate, limit in limits.items()})


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


def numbers(result: type) -> list[str]:
    """The fields and properties of a record that a gate can limit: numbers, and records with a `value`."""
    hints = get_type_hints(result)
    for name, member in inspect.getmembers(result, lambda member: isinstance(member, property)):
        hints[name] = get_type_hints(member.fget)["return"]
    return [name for name, hint in hints.items() if any(map(_is_number, _alternatives(hint)))]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_number(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, int | float) or hasattr(kind, "value"))


def as_text(verdicts: list[Verdict]) -> str:
    """One line per gate."""
    words = {Outcome.PASS: "PASS", Outcome.FAIL: "FAIL", Outcome.TOO_FEW: "TOO FEW"}
    return "\n".join(f"{words[v.outcome]:7}  {v.gate:22} {v.reason}" for v in verdicts)


def by_name(verdicts: list[Verdict]) -> dict[str, bool | None]:
    """Whether each gate passes, for JSON; null where the photos cannot tell."""
    passed = {Outcome.PASS: True, Outcome.FAIL: False, Outcome.TOO_FEW: None}
    return {verdict.gate: passed[verdict.outcome] for verdict in verdicts}
