"""Freed memory is kept for the next step of a training."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

_SCRIPT = """
import json, resource
from training import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = b"x" * (64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

alone = faults()
kept = memory.keep_freed()
faults()
print(json.dumps({"kept": kept, "alone": alone, "after": faults()}))
"""


def test_a_large_block_is_faulted_in_once():
    """Five blocks of 64 MiB cost their pages five times, and none once what is freed is kept."""
    pages = (64 << 20) // 65536  # of the largest size that is common
    command = [sys.executable, "-c", _SCRIPT]
    seen = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert seen["kept"] == (platform.libc_ver()[0] == "glibc")
    if seen["kept"]:
        assert seen["alone"] >= 5 * pages
        assert seen["after"] < pages
