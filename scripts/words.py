"""House words and un-English order in prose, docstrings, comments and messages, with what to write instead.

`make lint` runs it over every tracked document, Python file, workflow and configuration: it prints file, line
and the better word, and exits 1 if there is any. CONTRIBUTING.md has the glossary; `make docs` has grammar.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

INSTEAD: Final = {
    r"\bgo(?:es|ing)? on (?:where|with|from|then|at)\b|\bwent on where\b": "resume, continue",
    r"\btold apart\b|\btells? (?:\w+\W+)?apart\b": "distinguish",
    r"\bway back\b": "rollback",
    r"\bnear[-\s]cop(?:y|ies)\b": "near-duplicate",
    r"\bbeside (?:it|the|what|that|this|those|them|each)\b": "alongside, next to",
    r"\bhardly an?y?\b": "almost no, few",
    r"\btells? (?:of|whether|what|how|why|which)\b": "reports, says",
    r"\b(?:is|are|was|were|be) told\b": "is reported, is stated",
    r"\banew\b": "again",
    r"\bthe (?:whole )?line of dvc\b|\bthe whole line\b|\bruns the line\b": "the pipeline",
    r"\b(?:folder|thread|worker|process|row|label|photo|prototype|bin|value|one|core|step)s? an? "
    r"(?:class|core|photo|process|thread|minute|side)\b": "per, for each",
    r"\bone's own\b": "your own",
    r"\bserves on\b": "keeps serving",
}
"""What is written here and there, as a regular expression, and the field's words for it."""
LEFT_OUT: Final = (
    "scripts/words.py",
    "models/",
    "requirements/",
    "dvc.lock",
    "LICENSE",
    "docs/model-card.md",
)
SUFFIXES: Final = (".md", ".py", ".yml", ".yaml", ".toml", ".sh", ".cff", ".html", ".js", ".cfg", ".ipynb")
_GAP: Final = r"\s+(?:[#>*|]\s*)?"  # words may be on two lines, of a comment too
_PATTERNS: Final = [
    (re.compile(pattern.replace(" ", _GAP), re.IGNORECASE), better) for pattern, better in INSTEAD.items()
]
_CODE: Final = re.compile(r"`[^`\n]*`|\]\([^)]*\)")


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of what a person reads in a file: of Python, comments and strings alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def faults(path: Path) -> Iterator[str]:
    """One line for each house word in a file."""
    for first, text in prose_of(path):
        plain = _CODE.sub(lambda code: "\0" * len(code[0]), text)
        for pattern, better in _PATTERNS:
            for match in pattern.finditer(plain):
                words = " ".join(match[0].split())
                yield f"{path}:{first + plain.count(chr(10), 0, match.start())}: '{words}': write {better}"


def main() -> int:
    """Check all; return 1 if a house word was found."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    paths = [
        Path(name)
        for name in listed
        if (name.endswith(SUFFIXES) or name == "Makefile")
        and not name.startswith(LEFT_OUT)
        and Path(name).is_file()
    ]
    found = [fault for path in paths for fault in faults(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
