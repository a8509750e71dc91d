"""What a training or an artefact was made with: the commit of the code and the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from typing import Final

_LIBRARIES: Final = ("torch", "torchvision", "timm", "lightning", "pillow", "numpy")
_MADE_BY_THE_PIPELINE: Final = (":!dvc.lock", ":!data", ":!models", ":!reports")


def git_commit() -> str:
    """The commit of the working tree, `-dirty` if its code is changed; outside git GIT_COMMIT."""
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
    """Version by name of what a network's answers depend on."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
