"""Give the repository another project's name: `make rename NAME=flowers`, before anything is installed.

The name is [project].name of pyproject.toml. YAML, Dockerfiles, workflows and documents cannot read it there:
they hold it as text, alone or followed by -api, -train and the like, and this rewrites it in every tracked
file. What was made under the old name keeps it: the released model, its card and figures, the history.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

KEPT = ("CHANGELOG.md", "docs/model-card.md", "dvc.lock", "models/", "reports/")
LENGTH_MAX = 40  # Grafana's limit for a dashboard's uid, the shortest of those that the name must fit


class RenameError(Exception):
    """It cannot be done, and nothing was changed."""


def occurrences_of(name: str) -> re.Pattern[str]:
    """The name as a word or before a dash, as in NAME-api; not in the documents' example, NAME=flowers."""
    return re.compile(rf"(?<!\w)(?<!NAME=){re.escape(name)}(?!\w)")


def git(root: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        RenameError: git is not there, or this is no repository.
    """
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise RenameError(f"git {arguments[0]} failed: {str(reason).strip()}") from error


def texts(root: Path) -> dict[Path, str]:
    """The tracked text files that follow the project's name, and what stands in them."""
    found = {}
    for name in git(root, "ls-files", "-z").split("\0"):
        path = root / name
        if name and not name.startswith(KEPT) and path.is_file() and not path.is_symlink():
            try:
                found[path] = path.read_bytes().decode()
            except UnicodeDecodeError:
                continue  # a picture, a model
    return found


def check(root: Path, old: str, new: str, files: dict[Path, str]) -> None:
    """Refuse a name that an image, a host or a later rename cannot take, or a tree git cannot restore."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", new) or len(new) > LENGTH_MAX:
        raise RenameError(
            f"{new!r} cannot name images, hosts and Kubernetes objects: use lower case letters, digits and"
            f" single dashes, from a letter on, {LENGTH_MAX} characters at most: make rename NAME=flowers"
        )
    if new == old:
        raise RenameError(f"the project is called {old!r} already")
    if used := [path for path, text in files.items() if occurrences_of(new).search(text)]:
        raise RenameError(
            f"{new!r} is a word of this repository already ({used[0].relative_to(root)}; files: {len(used)}):"
            f" a later rename could not distinguish them. Choose another name, such as {new}-classifier"
        )
    if git(root, "status", "--porcelain", "--untracked-files=no"):
        raise RenameError("there are uncommitted changes: commit them first, so that git can undo the rename")


def rename(root: Path, new: str) -> dict[Path, int]:
    """Rewrite the name in the repository at root; how often it stood in each file changed.

    Raises:
        RenameError: The name will not do, or the tree is not as committed.
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
    """Rename this repository and print what changed and what comes next; the exit status."""
    if len(arguments) != 1 or not arguments[0]:
        print("error: name the project: make rename NAME=flowers", file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parent.parent
    try:
        changed = rename(root, arguments[0])
    except RenameError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, count in changed.items():
        print(f"{count:4} {path.relative_to(root)}")
    print(f"Renamed to {arguments[0]}: {sum(changed.values())} places in {len(changed)} files.")
    print(f"Kept, as made under the old name: {', '.join(KEPT)}.")
    print("Next: make format test, look through git diff, commit (git restore . undoes it).")
    print("Then: make train DATA=your/photos, and make release, for a model of that name.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
