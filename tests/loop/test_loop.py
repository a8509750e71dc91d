"""The loop's steps and their order, with the project's commands replaced by what they leave behind."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.files import sha256
from loop import steps
from loop.__main__ import main
from loop.journal import FOLDER, JOURNAL, REPORT
from loop.state import CANDIDATE, CHAMPION, GATES, MANIFEST, State
from loop.steps import STEPS
from serving.contract import artifact
from serving.contract.artifact import Artifact
from tests.tiny import card

NAMES = [step.name for step in STEPS]


class Killed(BaseException):
    """The process ends here."""


class Workplace:
    """A checkout in which each command leaves what the real one does, and nothing else."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """The commands that ran, by their telling word."""
        self.stale: set[str] = set()
        """Stages that dvc would run."""
        self.status = 0
        """Of the comparison."""
        self.release_status = 0
        """Of the release."""
        self.kill_at = ""
        """The command before which the process is killed."""
        self.added = 0
        for path, text in ((CHAMPION, "1"), (CANDIDATE, "1"), (GATES, "gates: 1\n")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        MANIFEST.parent.mkdir(parents=True)
        MANIFEST.write_text("path,label,split,sha256\na.jpg,cat,test,00\n")

    def call(self, *command: str, variables: Any = None, allowed: Any = None) -> int:  # noqa: ARG002
        """As `steps.call`."""
        words = " ".join(command)
        name = next(
            name
            for name in (
                *("--dry-run", "fetch", "prepare", "continue", "compare", "promote", "release"),
                *("build.sh", "push", "deploy.py", "train", "repro"),
            )
            if name in words.removeprefix(steps._PYTHON)
        )
        if name == self.kill_at:
            raise Killed
        self.calls.append(name)
        if name == "fetch":
            assert variables == {"DATA": "", "ADD": "review.db"}
            self.stale |= set() if self.added else {"prepare"}
            self.added += 1
        elif name == "prepare" and "prepare" in self.stale:
            self.stale = {"train", "export"}
            MANIFEST.write_text("path,label,split,sha256\na.jpg,cat,test,00\nb.jpg,cat,production,01\n")
        elif name == "train":
            self.stale = {"export"}
        elif name == "repro" and "export" in self.stale:
            self.stale = set()
            CANDIDATE.write_text("2")
        elif name == "compare":
            return self.status
        elif name == "deploy.py":
            assert command[-3:] == ("--retrained", "--canary", "10")
        elif name == "release":
            if self.release_status:
                return self.release_status
            CHAMPION.write_text(CANDIDATE.read_text() + " with the card of a release")
        return 0


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """An empty checkout with a released model, which is the last candidate too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    fake = Workplace()
    monkeypatch.setattr(steps, "call", fake.call)
    monkeypatch.setattr("loop.__main__.call", fake.call)
    monkeypatch.setattr(State, "changes", lambda _, *stages: sorted(fake.stale & {*stages}))
    monkeypatch.setattr(steps, "_digest", lambda image: f"{image}@sha256:{'0' * 64}")
    monkeypatch.setattr(artifact, "read", _read)
    return fake


def _read(path: Path) -> Artifact:
    import msgspec

    version = path.read_text().split()[0]
    return Artifact(msgspec.structs.replace(card(), version=version), [], version)


ALL = ["fetch", "prepare", "train", "continue", "repro", "compare", "release", "promote"]


def test_a_loop_runs_every_step_once(workplace: Workplace):
    """From a review to a release; a second time nothing is left to do but to look for photos."""
    assert main(["--add", "review.db"]) == 0
    assert workplace.calls == ALL
    assert CHAMPION.read_text().startswith("2")
    assert "Released as" in REPORT.read_text()
    workplace.calls.clear()
    assert main(["--add", "review.db"]) == 0
    assert workplace.calls == ["fetch", "prepare"]


@pytest.mark.parametrize("command", ALL)
def test_a_killed_loop_goes_on_where_it_was(workplace: Workplace, command: str):
    """Killed before any of its commands, and run again, it ends as one that was not."""
    workplace.kill_at = command
    with pytest.raises(Killed):
        main(["--add", "review.db"])
    workplace.kill_at = ""
    assert main(["--add", "review.db"]) == 0
    assert CHAMPION.read_text().startswith("2")
    assert "Released as" in REPORT.read_text()
    for once in ("train", "compare", "release"):
        assert workplace.calls.count(once) == 1


@pytest.mark.parametrize(("status", "words"), [(1, "refused"), (3, "label more")])
def test_a_refused_candidate_changes_nothing(workplace: Workplace, status: int, words: str):
    """The status is that of the comparison, also the second time, when nothing is computed again."""
    workplace.status = status
    for _ in range(2):
        assert main(["--add", "review.db"]) == status
        assert CHAMPION.read_text() == "1"
        assert words in REPORT.read_text()
    assert workplace.calls.count("compare") == 1
    assert "release" not in workplace.calls


def test_both_worlds_are_judged_once_there_are_photos_of_production(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
):
    """The splits of the comparison are those that the manifest has."""
    seen: list[tuple[str, ...]] = []
    real = workplace.call
    monkeypatch.setattr(steps, "call", lambda *words, **more: (seen.append(words), real(*words, **more))[1])
    assert main(["--add", "review.db"]) == 0
    (compared,) = [words for words in seen if "compare" in words]
    assert compared[-4:] == ("--split", "test", "--split", "production")


@pytest.mark.parametrize("changed", [CHAMPION, GATES, MANIFEST])
def test_a_verdict_holds_for_what_was_compared_alone(workplace: Workplace, changed: Path):
    """The released model was replaced, or gates or photos are others: compare again, then decide."""
    workplace.kill_at = "release"
    with pytest.raises(Killed):
        main(["--add", "review.db"])
    workplace.kill_at, workplace.status = "", 1
    changed.write_text("3" if changed == CHAMPION else changed.read_text() + "\n")
    assert main(["--only", "release"]) == 1
    assert workplace.calls[-1] == "compare"
    assert "release" not in workplace.calls


def test_a_dry_run_changes_nothing(workplace: Workplace, capsys: pytest.CaptureFixture[str]):
    """It says of each step what it would do, and why."""
    assert main(["--add", "review.db", "--dry", "--image", "host/api:1", "--", "--canary", "10"]) == 0
    said = capsys.readouterr().out
    assert workplace.calls == ["--dry-run"]
    assert all(f"{name}: would" in said for name in NAMES)
    assert "photos of review.db" in said
    assert not JOURNAL.exists()
    assert not REPORT.exists()


def test_a_dry_run_with_nothing_to_do_says_so(workplace: Workplace, capsys: pytest.CaptureFixture[str]):
    """A step that has nothing to do is named too."""
    assert main(["--dry"]) == 0
    assert capsys.readouterr().out.count("nothing to do") == len(NAMES)
    assert workplace.calls == []


def test_one_step_can_be_run_alone(workplace: Workplace):
    """Only what it does is done."""
    assert main(["--only", "collect", "--add", "review.db"]) == 0
    assert workplace.calls == ["fetch", "prepare"]


def test_a_release_is_deployed_once(workplace: Workplace, monkeypatch: pytest.MonkeyPatch):
    """Built, pushed and deployed by digest with the caller's options; what was rolled back stays so."""
    monkeypatch.delenv("DEPLOY_HOST", raising=False)
    words = ["--add", "review.db", "--image", "host/api:1", "--", "--canary", "10"]
    assert main(words) == 0
    assert workplace.calls == [*ALL, "build.sh", "push", "deploy.py"]
    assert "It was deployed." in REPORT.read_text()
    assert main(["--only", "deploy", *words[2:]]) == 0
    assert workplace.calls.count("deploy.py") == 1
    CANDIDATE.write_text("3")  # the next release, which nobody deploys
    assert main([]) == 0
    assert "Released as" in REPORT.read_text()
    assert "It was deployed." not in REPORT.read_text()


def test_one_loop_at_a_time(workplace: Workplace):
    """A second one in the same checkout is refused."""
    FOLDER.mkdir(parents=True)
    with (FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another loop"):
            main([])
    assert workplace.calls == []


def test_without_a_released_model_there_is_nothing_to_compare_with(workplace: Workplace):
    """The first release is a decision of its own."""
    CHAMPION.unlink()
    with pytest.raises(UserError, match="make release"):
        main([])


def test_a_damaged_journal_is_named(workplace: Workplace):
    """No step depends on what cannot be read."""
    JOURNAL.parent.mkdir(parents=True)
    JOURNAL.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        main([])
    JOURNAL.write_text(json.dumps({}))
    assert main([]) == 0


def test_a_workflow_learns_what_was_done(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its next steps depend on it."""
    outputs = tmp_path / "outputs"
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    assert main([]) == 0
    assert not outputs.exists()
    assert main(["--add", "review.db"]) == 0
    assert outputs.read_text().split() == ["trained=true", "released=true"]


def test_a_failed_command_ends_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With its status and what to do next; a verdict is no failure."""
    monkeypatch.chdir(tmp_path)
    python: Callable[..., int] = lambda code, **more: steps.call(steps._PYTHON, "-c", code, **more)  # noqa: E731
    assert python("raise SystemExit(3)", allowed=(1, 3)) == 3
    with pytest.raises(UserError, match="status 4"):
        python("raise SystemExit(4)", allowed=(1, 3))


def test_the_report_has_both_trainings_of_the_checkpoint(workplace: Workplace):
    """Those of another checkpoint are left out."""
    assert main(["--add", "review.db"]) == 0
    checkpoint, starts = Path("models/checkpoint.ckpt"), Path("build/continue/starts.json")
    checkpoint.write_text("weights")
    training = {"weights": "pretrained", "loss": 0.0312, "n": 2280, "checkpoint_sha256": sha256(checkpoint)}
    training["accuracy"] = {"value": 0.9912, "low": 0.9863, "high": 0.9941}
    found = {"champion": {"version": "3"}, "kept": "from_champion", "from_start": training}
    starts.parent.mkdir(parents=True)
    starts.write_text(json.dumps(found | {"from_champion": training | {"loss": 0.0301}}))
    assert main([]) == 0
    assert "| pretrained | 0.0312 | 99.12% [98.63%, 99.41%] | 2,280 |  |" in REPORT.read_text()
    assert "| the released model 3 | 0.0301 | 99.12% [98.63%, 99.41%] | 2,280 | kept |" in REPORT.read_text()
    checkpoint.write_text("others")
    assert main([]) == 0
    assert "0.0312" not in REPORT.read_text()


def test_a_release_that_its_own_gates_refuse_is_told_from_a_comparison_that_does(workplace: Workplace):
    """The report names the gates, and nothing is measured a second time."""
    workplace.release_status = 1
    for _ in range(2):
        assert main(["--add", "review.db"]) == 1
        assert "the gates of a release do not" in REPORT.read_text()
    assert workplace.calls.count("release") == workplace.calls.count("compare") == 1
    assert "promote" not in workplace.calls
