"""The cores that a process may use: what binds it, and what limits its time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.processor import cores

BOUND = len(os.sched_getaffinity(0))


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """The parts of a machine that are read: the process's cgroup, and the files of limits."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MACHINES = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, BOUND),
    "one core in a container": ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
    "half a core": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "more than there are": ("0::/\n", {"cpu.max": "6400000 100000\n"}, BOUND),
    "a limit above the process": ("0::/pods/a/b\n", {"pods/cpu.max": "100000 100000\n"}, 1),
    "the tightest of several": (
        "0::/a/b\n",
        {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"},
        1,
    ),
    "version 1": (
        "4:cpu,cpuacct:/docker/x\n1:memory:/docker/x\n",
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        1,
    ),
    "version 1 without a limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        BOUND,
    ),
    "nonsense": ("0::/\n", {"cpu.max": "a b c\n"}, BOUND),
}


@pytest.mark.parametrize("name", MACHINES)
def test_counts_the_cores_that_a_container_may_use(name: str, tmp_path: Path):
    """Never fewer than one, never more than the process is bound to."""
    cgroup, files, expected = MACHINES[name]
    assert cores(machine(tmp_path, cgroup, files)) == expected


def test_without_cgroups_the_affinity_counts(tmp_path: Path):
    """As on another system."""
    assert cores(tmp_path) == BOUND
