"""The lineage of a training or an artefact: the code's commit and the libraries' versions."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from typing import Final

_LIBRARIES: Final = ("torch", "torchvision", "timm", "lightning", "pillow", "numpy")
_MADE_BY_THE_PIPELINE: Final = (":!dvc.lock", ":!data", ":!models", ":!reports")


def git_commit() -> str:
    """The working tree's commit, with `-dirty` if code has changed; outside git, the variable GIT_COMMIT."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_MADE_BY_THE_PIPELINE)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT") or "unknown"
    return commit + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()


def libraries() -> dict[str, str]:
    """Version, by name, of each library that predictions depend on."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
