"""Freed memory is kept for the next training step."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

from training.fit import allocator

_SCRIPT = """
import json, resource
import sys, types
from common.command import Command
from training import __main__ as program

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = b"x" * (64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

alone = faults()
def fit(_):
    print(json.dumps([alone, faults(), faults()]))
    return 0

sys.modules["faulting"] = types.ModuleType("faulting")
sys.modules["faulting"].main = fit
program.COMMANDS["fit"] = Command("faulting", "")
program.main(["fit"])
"""


def test_a_command_faults_in_a_large_block_once():
    """Five blocks of 64 MiB fault in their pages five times; with freed memory kept, not at all."""
    pages = (64 << 20) // 65536  # of the largest common size
    command = [sys.executable, "-c", _SCRIPT]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    alone, _, kept = json.loads(shown)
    if platform.libc_ver()[0] == "glibc":
        assert alone >= 5 * pages
        assert kept < pages
    else:
        assert not allocator.keep_freed()
