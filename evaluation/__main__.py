"""`python -m evaluation COMMAND`: evaluate an artefact or a service, and release an artefact."""

from __future__ import annotations

import sys
from typing import Final

from common.command import Command, run
from evaluation import arguments

_MODULES: Final = {
    arguments.offline: "evaluation.artefact.offline",
    arguments.live: "evaluation.service.live",
    arguments.compare: "evaluation.artefact.compare",
    arguments.slices: "evaluation.artefact.slices",
    arguments.shifts: "evaluation.artefact.shifts",
    arguments.drift: "evaluation.service.drift",
    arguments.production: "evaluation.service.production",
    arguments.reference: "evaluation.service.reference",
    arguments.rates: "evaluation.artefact.rates",
    arguments.intervals: "evaluation.figures.coverage",
    arguments.score: "evaluation.batch.score",
    arguments.release: "evaluation.release.release",
}
COMMANDS: Final = {
    declare.__name__: Command(module, str(declare.__doc__).partition("\n")[0], declare)
    for declare, module in _MODULES.items()
}
"""By name of the function that declares the arguments, summarised by the first line of its docstring."""


def main(words: list[str]) -> int:
    """Run the command that `words` begin with; return the exit status of `common.command.run`."""
    return run("evaluation", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
