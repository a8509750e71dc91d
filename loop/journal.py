"""What a loop has found so far, kept in `build/loop/journal.json`: a killed loop resumes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from common.errors import UserError
from common.files import write_json

FOLDER: Final = Path("build/loop")
JOURNAL: Final = FOLDER / "journal.json"
REPORT: Final = FOLDER / "report.md"


class LoopError(UserError):
    """The loop cannot go on; the text names the cause and the next step."""


class Judged(msgspec.Struct, frozen=True):
    """What a comparison was of. With another file in one place, it says nothing."""

    candidate: str
    """SHA-256 of `models/model.pt`."""
    champion: str
    """SHA-256 of `models/release/model.pt`."""
    photos: str
    """SHA-256 of the manifest."""
    gates: str
    """SHA-256 of `configs/gates.yaml`."""


class Journal(msgspec.Struct):
    """The findings of the steps, in the order of the steps."""

    changes: list[str] = []
    """What differed from `dvc.lock` before the training, one line each."""
    judged: Judged | None = None
    """The last comparison."""
    status: int = 0
    """Its exit status: 0 the candidate may replace the champion, 1 it may not, 3 too few photos to tell."""
    refused_by_release: bool = False
    """Whether the status is that of the release, whose own gates the candidate did not pass."""
    releasing: bool = False
    """Whether a release has begun that has not moved the alias in MLflow yet."""
    deployed: str = ""
    """SHA-256 of the model that the loop deployed last."""

    def save(self) -> None:
        """Write it, atomically."""
        write_json(JOURNAL, self)


def read_journal() -> Journal:
    """The journal of an unfinished loop, or a new one.

    Raises:
        LoopError: the file is not a journal.
    """
    if not JOURNAL.exists():
        return Journal()
    try:
        return msgspec.json.decode(JOURNAL.read_bytes(), type=Journal)
    except msgspec.DecodeError as error:
        raise LoopError(f"{JOURNAL} is damaged: {error}. Delete it; no step is lost.") from error
