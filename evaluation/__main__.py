"""`python -m evaluation COMMAND`: judge an artefact, a service or a release."""

from __future__ import annotations

import sys
from typing import Final

from common.command import Command, run
from evaluation import arguments

COMMANDS: Final = {
    "offline": Command(
        "evaluation.artefact.offline",
        "Evaluate the artefact on the test split, and judge it.",
        arguments.offline,
    ),
    "live": Command(
        "evaluation.service.live",
        "Send labelled photos to a running service, and judge it.",
        arguments.live,
    ),
    "compare": Command(
        "evaluation.artefact.compare",
        "Decide whether a candidate may replace the champion.",
        arguments.compare,
    ),
    "slices": Command(
        "evaluation.artefact.slices",
        "Find where the model is weak: by kind of photo and damage.",
        arguments.slices,
    ),
    "shifts": Command(
        "evaluation.artefact.shifts",
        "Measure which changes the drift alarm notices, how soon.",
        arguments.shifts,
    ),
    "drift": Command(
        "evaluation.service.drift",
        "Judge the service's latest photos against the reference.",
        arguments.drift,
    ),
    "score": Command(
        "evaluation.batch.score",
        "Answer a folder or a list of photos, however many.",
        arguments.score,
    ),
    "release": Command(
        "evaluation.release.release",
        "Put the evaluated artefact in models/release.",
        arguments.release,
    ),
}


def main(words: list[str]) -> int:
    """Run the command that `words` begin with; return its exit status, as `common.command.run` has it."""
    return run("evaluation", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
