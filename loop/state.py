"""The files of the checkout in; what of the loop is still to be done out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.files import sha256
from common.manifest import read_manifest
from loop.journal import Journal, Judged, LoopError
from serving.contract import artifact

CANDIDATE: Final = Path("models/model.pt")
CHAMPION: Final = Path("models/release/model.pt")
MANIFEST: Final = Path("data/prepared/manifest.csv")
GATES: Final = Path("configs/gates.yaml")
_NAMED: Final = 3
DVC: Final = (sys.executable, "-m", "dvc")


@dataclass(slots=True)
class Options:
    """What the caller wants."""

    add: str
    """Source of new photos, as `make data ADD=` takes it; empty for none."""
    force: bool
    """Train although nothing has changed."""
    image: str
    """Name and tag of the image to deploy; empty deploys nothing."""
    deploy: list[str] = field(default_factory=list)
    """Options of `deploy/deploy.py deploy`."""


@dataclass(slots=True)
class State:
    """The options, the journal, and what the checkout holds now."""

    options: Options
    journal: Journal

    def changes(self, *stages: str) -> list[str]:
        """What of some stages differs from `dvc.lock`; an output that is merely absent is no change."""
        done = subprocess.run(
            [*DVC, "status", "--json", *stages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LoopError(f"dvc status failed: {done.stderr.strip()}. Mend that, and run the loop again.")
        return [
            f"`{stage}`: {what}{_some(list(names))}"
            for stage, entries in json.loads(done.stdout).items()
            for entry in entries
            for what, names in (entry if isinstance(entry, dict) else {entry: {}}).items()
            if what != "changed outs"
        ]

    def is_released(self) -> bool:
        """Whether the candidate is the released model, under whatever card, or there is no candidate.

        Raises:
            LoopError: nothing has been released yet.
        """
        if not CANDIDATE.exists():
            return True
        if not CHAMPION.exists():
            raise LoopError(f"There is no {CHAMPION} to compare with. Release a first model: make release.")
        new, old = (artifact.read(path).card for path in (CANDIDATE, CHAMPION))
        return (new.name, new.version) == (old.name, old.version)

    def to_judge(self) -> Judged:
        """What a comparison would be of, now.

        Raises:
            LoopError: a file is missing.
        """
        for path, step in ((CANDIDATE, "loop"), (CHAMPION, "release"), (MANIFEST, "data")):
            if not path.exists():
                raise LoopError(f"There is no {path}, and so nothing to compare. Make it first: make {step}.")
        return Judged(sha256(CANDIDATE), sha256(CHAMPION), sha256(MANIFEST), sha256(GATES))

    def verdict(self) -> int | None:
        """Exit status of the comparison of the present files; None if they have not been compared."""
        return self.journal.status if self.journal.judged == self.to_judge() else None

    def worlds(self) -> list[str]:
        """The splits to judge on: test, and production if people have labelled photos of it."""
        splits = set(read_manifest(MANIFEST)["split"])
        return [split for split in ("test", "production") if split in splits]


def _some(names: list[str]) -> str:
    """The first names, after a colon, and how many there are besides."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f": {', '.join(names[:_NAMED])}{more}" if names else ""
