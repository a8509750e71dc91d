"""Rename the project: `make rename NAME=my-flowers`, before anything is installed.

The name is [project].name of pyproject.toml. YAML, Dockerfiles, workflows and documents cannot read it from
there: they repeat it as text, alone or followed by a suffix such as -api or -train. This script rewrites it
in every tracked file. What was made under the old name keeps it: the released model with its card and
figures, and the history.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

KEPT = ("CHANGELOG.md", "docs/model-card.md", "dvc.lock", "models/", "reports/")
LENGTH_MAX = 40  # Grafana's limit for a dashboard's uid, the shortest limit that the name must fit


class RenameError(Exception):
    """The rename is not possible; nothing was changed."""


def occurrences_of(name: str) -> re.Pattern[str]:
    """Match the name as a word or before a dash, as in NAME-api, but not in the example of `make rename`."""
    return re.compile(rf"(?<!\w)(?<!NAME=){re.escape(name)}(?!\w)")


def git(root: Path, *arguments: str) -> str:
    """Return the output of a git command.

    Raises:
        RenameError: git is not installed, or root is not a repository.
    """
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise RenameError(f"git {arguments[0]} failed: {str(reason).strip()}") from error


def texts(root: Path) -> dict[Path, str]:
    """Return the tracked text files that carry the project's name, with their contents."""
    found = {}
    for name in git(root, "ls-files", "-z").split("\0"):
        path = root / name
        if name and not name.startswith(KEPT) and path.is_file() and not path.is_symlink():
            try:
                found[path] = path.read_bytes().decode()
            except UnicodeDecodeError:
                continue  # binary, such as a picture or a model
    return found


def check(root: Path, old: str, new: str, files: dict[Path, str]) -> None:
    """Reject a name that is invalid or ambiguous, and a tree that git could not restore."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", new) or len(new) > LENGTH_MAX:
        raise RenameError(
            f"{new!r} cannot name images, hosts and Kubernetes objects: use lower-case letters, digits and"
            f" single dashes, start with a letter, at most {LENGTH_MAX} characters:"
            " make rename NAME=my-flowers"
        )
    if new == old:
        raise RenameError(f"the project is already called {old!r}: choose another name")
    if used := [path for path, text in files.items() if occurrences_of(new).search(text)]:
        raise RenameError(
            f"{new!r} already occurs in this repository ({used[0].relative_to(root)}; files: {len(used)}), so"
            f" a later rename could not distinguish the two. Choose another name, such as {new}-classifier"
        )
    if git(root, "status", "--porcelain", "--untracked-files=no"):
        raise RenameError("there are uncommitted changes: commit them first, so that git can undo the rename")


def rename(root: Path, new: str) -> dict[Path, int]:
    """Rewrite the name in the repository at root; return the number of occurrences per changed file.

    Raises:
        RenameError: the name is not possible, or the tree has uncommitted changes.
    """
    files = texts(root)
    old = re.findall(r'^name = "(.+)"$', files[root / "pyproject.toml"], re.MULTILINE)[0]
    check(root, old, new, files)
    changed = {}
    for path, text in files.items():
        renamed, count = occurrences_of(old).subn(new, text)
        if count:
            path.write_bytes(renamed.encode())
            changed[path] = count
    return changed


def main(arguments: list[str]) -> int:
    """Rename this repository and print what changed and what to do next; return the exit status."""
    if len(arguments) != 1 or not arguments[0]:
        print("error: name the project: make rename NAME=my-flowers", file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parent.parent
    try:
        changed = rename(root, arguments[0])
    except RenameError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, count in changed.items():
        print(f"{count:4} {path.relative_to(root)}")
    print(f"Renamed to {arguments[0]}: {sum(changed.values())} occurrences in {len(changed)} files.")
    print(f"Unchanged, because they were made under the old name: {', '.join(KEPT)}.")
    print("Next: run make format test, review git diff, and commit (git restore . undoes the rename).")
    print("Then: run make train DATA=your/photos and make release for a model under the new name.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
