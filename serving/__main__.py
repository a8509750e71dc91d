"""`python -m serving`: serve the model until SIGTERM or Ctrl-C, then drain and exit 0; or run a command."""

from __future__ import annotations

import sys

from common.command import Command, guarded, run

COMMANDS = {
    "healthcheck": Command("serving.healthcheck", "Check whether the service in this container is ready."),
    "export-feedback": Command(
        "serving.observers.export", "Export the labelled answers of a feedback database as training data."
    ),
    "export-review": Command(
        "serving.observers.review.export",
        "Export the photos that people labelled in review, as training data and as a test set of production.",
    ),
    "suspects": Command(
        "serving.observers.review.suspects",
        "Take photos whose label is in doubt for review, and print what people said of them.",
    ),
}


def main(arguments: list[str]) -> int:
    """Serve, or run the named command; return the exit status."""
    if not arguments:
        return guarded(_serve)
    return guarded(lambda: _command(arguments))


def _command(arguments: list[str]) -> int:
    status = run("serving", COMMANDS, arguments)
    if status == 0 and arguments[0] in ("-h", "--help"):
        from serving import settings

        print(f"\nWithout a command: serve the model until SIGTERM or Ctrl-C.\n\n{settings.describe()}")
    return status


def _serve() -> int:
    from serving import settings

    chosen = settings.from_environment()  # a wrong setting is reported before torch is imported
    from serving.http.server import serve

    return serve(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
