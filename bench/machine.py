"""The processor that a run was made on: its name and the instructions that decide how fast a network runs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_INSTRUCTIONS: Final = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "sve"),  # Arm
)


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """The name, with family and model: several generations share a name."""
    fields = _fields(cpuinfo)
    if "model name" not in fields:
        return platform.processor() or "unknown processor"
    numbers = [f"{key.split()[-1]} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{fields['model name']} ({', '.join(numbers)})" if numbers else fields["model name"]


def instructions(cpuinfo: Path = _CPUINFO) -> str:
    """Its sets of vector instructions, as the kernel names them."""
    fields = _fields(cpuinfo)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return ", ".join(name for name in _INSTRUCTIONS if name in flags) or "unknown instructions"


def _fields(cpuinfo: Path) -> dict[str, str]:
    """Those of the first core."""
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
