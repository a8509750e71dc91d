"""`python -m loop`: from labelled photos to a better model in production, step by step (docs/loop.md)."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator, Sequence

from common.command import guarded
from loop.journal import FOLDER, REPORT, LoopError, read_journal
from loop.report import write_report
from loop.state import Options, State
from loop.steps import STEPS, Refused, Step, call


def main(words: list[str]) -> int:
    """Run the loop, or one step of it; return 0, 1 if a gate refused, 3 if the photos are too few to tell."""
    options = _parse(words)
    chosen = [step for step in STEPS if options.only in ("", step.name)]
    wanted = Options(options.add, options.force, options.image, options.deploy)
    with _alone():
        state = State(wanted, read_journal())
        if options.dry:
            return _describe(chosen, state)
        try:
            return _run(chosen, state)
        finally:
            write_report(state)
            print(f"\n{REPORT} has the report.")


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loop", description=__doc__)
    parser.add_argument("--add", default="", help="source of new photos, as make data ADD= takes it")
    parser.add_argument(
        "--only", default="", choices=[step.name for step in STEPS], help="run one step alone"
    )
    parser.add_argument("--dry", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--force", action="store_true", help="train although nothing has changed")
    parser.add_argument("--image", default="", help="NAME:TAG of the image to build, push and deploy")
    parser.add_argument("deploy", nargs="*", help="after --: options of deploy.py, such as --canary 10")
    return parser.parse_args(words)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep a second loop out of this checkout.

    Raises:
        LoopError: there is one.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LoopError("Another loop runs in this checkout. Wait for it, or end it.") from error
        yield


def _describe(chosen: Sequence[Step], state: State) -> int:
    """Print what each step would do; what follows from a step that is to come is not known yet."""
    pending = False
    for step in chosen:
        reason = step.reason(state)
        if reason:
            print(f"{step.name}: would {step.about}\n    because: {reason}")
        elif pending and (step.name != "deploy" or state.options.image):
            print(f"{step.name}: would then {step.about}, unless nothing has changed")
        else:
            print(f"{step.name}: nothing to do")
        pending = pending or bool(reason)
        if step.name == "collect" and reason:
            call(
                sys.executable,
                "-m",
                "training",
                "fetch",
                "--dry-run",
                variables={"DATA": "", "ADD": state.options.add},
            )
    return 0


def _run(chosen: Sequence[Step], state: State) -> int:
    for place, step in enumerate(chosen, 1):
        reason = step.reason(state)
        print(f"\n== {place} of {len(chosen)}, {step.name}: {reason or 'nothing to do'}", flush=True)
        if reason:
            began = time.monotonic()
            try:
                step.run(state)
            except Refused as refused:
                return int(refused.args[0])
            print(f"{step.name} took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
