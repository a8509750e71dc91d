"""`python -m evaluation COMMAND`: judge an artefact, a service or a release."""

from __future__ import annotations

import sys
from typing import Final

from common.command import Command, run

COMMANDS: Final = {
    "offline": Command(
        "evaluation.artefact.offline", "Evaluate the artefact on the test split, and judge it."
    ),
    "live": Command("evaluation.service.live", "Send labelled photos to a running service, and judge it."),
    "compare": Command("evaluation.artefact.compare", "Decide whether a candidate may replace the champion."),
    "slices": Command(
        "evaluation.artefact.slices", "Find where the model is weak: by kind of photo and damage."
    ),
    "shifts": Command(
        "evaluation.artefact.shifts", "Measure which changes the drift alarm notices, how soon."
    ),
    "drift": Command("evaluation.service.drift", "Judge the service's latest photos against the reference."),
    "score": Command("evaluation.batch.scorer", "Answer a folder or a list of photos, however many."),
    "release": Command("evaluation.release.release", "Put the evaluated artefact in models/release."),
}

if __name__ == "__main__":
    sys.exit(run("evaluation", COMMANDS, sys.argv[1:]))
