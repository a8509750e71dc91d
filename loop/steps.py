"""The steps of the loop: each says whether it has anything to do, and does it by the commands of the project.

Each can be run alone and again: the files say what is done, not a list of steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from common.files import sha256
from loop.journal import LoopError
from loop.state import CANDIDATE, CHAMPION, DVC, State

_PYTHON: Final = sys.executable
_TRAINING: Final = ("prepare", "train")
_EXPORTING: Final = ("export", "evaluate")
_REFUSED: Final = (1, 3)
"""Exit statuses of a comparison: a gate failed, or there are too few photos to tell."""


class Refused(Exception):
    """The candidate may not replace the champion; the argument is the exit status."""


class Step(NamedTuple):
    """A part of the loop."""

    name: str
    about: str
    reason: Callable[[State], str]
    """Why there is something to do, or ""."""
    run: Callable[[State], None]


def call(*command: str, variables: Mapping[str, str] | None = None, allowed: tuple[int, ...] = ()) -> int:
    """Run a command of the project, which prints what it does; return its exit status.

    Raises:
        LoopError: it failed, with a status that is not `allowed`.
    """
    print("$", *(word.replace(_PYTHON, "python") for word in command), flush=True)
    path = os.pathsep.join((str(Path(_PYTHON).parent), os.environ["PATH"]))  # for the stages' `python`
    done = subprocess.run(command, env={**os.environ, "PATH": path, **(variables or {})}, check=False)
    if done.returncode and done.returncode not in allowed:
        raise LoopError(
            f"This step failed with status {done.returncode}; its message is above. Mend the cause and run "
            "make loop again: it goes on here."
        )
    return done.returncode


def _tell_workflow(name: str) -> None:
    """Set an output of the CI step that runs this, if one does."""
    if file := os.environ.get("GITHUB_OUTPUT"):
        with Path(file).open("a", encoding="utf-8") as outputs:
            print(f"{name}=true", file=outputs)


def _collect(state: State) -> None:
    variables = {"DATA": "", "ADD": state.options.add}
    call(*DVC, "repro", "--single-item", "--force", "fetch", variables=variables)
    call(*DVC, "repro", "prepare")


def _why_train(state: State) -> str:
    changes = state.changes(*_TRAINING)
    if changes:
        return "changed since the last training: " + "; ".join(changes)
    return "forced" if state.options.force else ""


def _train(state: State) -> None:
    state.journal.changes = state.changes(*_TRAINING) or ["nothing; the training was forced"]
    state.journal.save()
    force = ["--force", "--single-item"] if state.options.force else []
    call(*DVC, "repro", *force, "train")
    _tell_workflow("trained")


def _why_go_on(state: State) -> str:
    if not state.changes(*_TRAINING, *_EXPORTING) and state.is_released():
        return ""
    return "validation may prefer what starts from the released weights"


def _go_on(_: State) -> None:
    call("bash", "scripts/continue.sh")


def _why_export(state: State) -> str:
    changes = state.changes(*_EXPORTING)
    return "changed since the last export: " + "; ".join(changes) if changes else ""


def _export(_: State) -> None:
    call(*DVC, "repro")


def _why_compare(state: State) -> str:
    if state.is_released() or state.verdict() is not None:
        return ""
    return f"{CANDIDATE} has not been compared with the present {CHAMPION}"


def _compare(state: State) -> None:
    """Judge on both worlds; remember of which files, before anything is said.

    Raises:
        Refused: a gate failed, or there are too few photos to tell.
    """
    judged = state.to_judge()
    splits = [word for split in state.worlds() for word in ("--split", split)]
    models = ("--candidate", str(CANDIDATE), "--champion", str(CHAMPION))
    status = call(_PYTHON, "-m", "evaluation", "compare", *models, *splits, allowed=_REFUSED)
    state.journal.judged = judged
    _note(state, status, by_release=False)


def _note(state: State, status: int, *, by_release: bool) -> None:
    state.journal.status, state.journal.refused_by_release = status, bool(by_release and status)
    state.journal.releasing = state.journal.releasing and not status
    state.journal.save()
    _require_pass(status)


def _require_pass(status: int) -> None:
    if status:
        raise Refused(status)


def _why_release(state: State) -> str:
    if state.is_released():
        return "it was interrupted" if state.journal.releasing else ""
    if state.verdict() in _REFUSED:
        return "it has been refused, and so nothing will change"
    return "the gates of the comparison allow it"


def _release(state: State) -> None:
    if not state.is_released():
        verdict = state.verdict()
        if verdict is None:
            print("The models, the photos or the gates are not those that were compared.")
            _compare(state)
        else:
            _require_pass(verdict)
        _note_release(state, begun=True)
        status = call(_PYTHON, "-m", "evaluation", "release", allowed=_REFUSED)
        _note(state, status, by_release=True)
    call(_PYTHON, "-m", "training", "promote", str(CHAMPION))
    _note_release(state, begun=False)
    _tell_workflow("released")


def _note_release(state: State, *, begun: bool) -> None:
    state.journal.releasing = begun
    state.journal.save()


def _why_deploy(state: State) -> str:
    if not state.options.image or not CHAMPION.exists() or state.journal.deployed == sha256(CHAMPION):
        return ""
    return f"{state.options.image} is to serve the released model"


def _deploy(state: State) -> None:
    released, image = sha256(CHAMPION), state.options.image
    call("bash", "deploy/build.sh", "serve", variables={"IMAGE": image})
    call("docker", "push", image)
    digest = _digest(image)
    remote = (
        ["bash", "deploy/remote.sh"] if os.environ.get("DEPLOY_HOST") else ["python3", "deploy/deploy.py"]
    )
    call(*remote, "deploy", digest, "--retrained", *state.options.deploy)
    state.journal.deployed = released
    state.journal.save()


def _digest(image: str) -> str:
    """`NAME@sha256:…` of a pushed image; one that was pushed elsewhere too has a digest there as well."""
    form = r'{{join .RepoDigests "\n"}}'
    done = subprocess.run(
        ["docker", "inspect", "--format", form, image], capture_output=True, text=True, check=False
    )
    name = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    for line in done.stdout.splitlines():
        if line.rpartition("@")[0].endswith(name):  # docker adds its own registry's host to a short name
            return line
    raise LoopError(f"{image} has no digest after its push: {done.stderr.strip() or done.stdout.strip()}")


STEPS: Final = (
    Step(
        "collect",
        "add what people have labelled to the data, and split it",
        lambda state: f"photos of {state.options.add}" if state.options.add else "",
        _collect,
    ),
    Step("train", "train from the start, by the recipe of configs/train.yaml", _why_train, _train),
    Step("continue", "train on from the released weights; keep what validation prefers", _why_go_on, _go_on),
    Step("export", "export the better network, and evaluate it on validation", _why_export, _export),
    Step("compare", "compare it with the released model, on test and production", _why_compare, _compare),
    Step("release", "put it in models/release, and move @champion to it", _why_release, _release),
    Step("deploy", "build an image, push it and replace the service on the host", _why_deploy, _deploy),
)
