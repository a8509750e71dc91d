"""The scenes of `make rehearse-loop`: from a first model to a better one in a drifted world, and a lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from evaluation.artefact.comparison import compare
from evaluation.figures.intervals import wilson
from rehearsal import kept
from rehearsal.callers import KEY, ask, send, send_and_lie
from rehearsal.engine import build
from rehearsal.kept import Answered, percent
from rehearsal.load import Load, failures, show
from rehearsal.machine import HERE, PORTS, ROOT, STATE, URL, WORK, Transcript, until
from rehearsal.monitoring import Webhook, firing
from rehearsal.reviewers import Reviewer, desk
from rehearsal.scenes import deploy
from rehearsal.worlds import NEW, OLD, Picture, pictures, save, truth

_RELEASED: Final = ROOT / "models/release/model.onnx"
_FIRST: Final = WORK / "first.onnx"
_ALERT: Final = "ClassifierDrift"
_HOLDS_SECONDS: Final = 10
"""How long the condition of the alert has to hold (`WAITS`)."""
WAITS: Final = {"for: 15m": f"for: {_HOLDS_SECONDS}s", "group_wait: 30s": "group_wait: 1s"}
"""What stands in the rules and routes, and what takes its place; the conditions of the rules stay."""
_SETTINGS: Final = f"""\
SERVING_API_KEY={KEY}
SERVING_REVIEW=/data/review.db
SERVING_REVIEW_SHARE=0.25
SERVING_FEEDBACK=/data/feedback.db
SERVING_FEEDBACK_PHOTOS=true
SERVING_DRIFT_WINDOW=300
"""
_LABELS: Final = 320
_SECOND_LABELS: Final = 50
_MARGIN: Final = 0.05
"""The new model has to be better on the new world by this much: the whole interval of the difference."""
_FORGOTTEN: Final = 0.03
"""It may be worse on the old world by less than this: the whole interval again."""
_OTHER: Final = {"cat": "dog", "dog": "cat"}


@dataclass(frozen=True)
class Drawn:
    """All pictures of a rehearsal; none is in two of these lists."""

    taught: Sequence[Picture]
    """Of the old world, for the first model."""
    before: Sequence[Picture]
    """What callers send before the drift."""
    after: Sequence[Picture]
    """What callers send after it."""
    lied_about: Sequence[Picture]
    held: dict[str, Sequence[Picture]]
    """Of each world, which only the rehearsal sees: both models are judged on them."""

    @classmethod
    def draw(cls) -> Drawn:
        """Draw them, each by its number."""
        old, new = pictures(OLD, range(800)), pictures(NEW, range(1000))
        return cls(old[:400], old[400:600], new[:500], new[500:800], {OLD: old[600:], NEW: new[800:]})


@dataclass
class Cycle:
    """A rehearsal under way."""

    record: Transcript
    _image: str = ""
    """Of the first model, by digest."""
    _answered: list[Answered] = field(default_factory=list)
    """What callers sent before and after the drift, with the first model's answers."""

    @cached_property
    def drawn(self) -> Drawn:
        """The pictures."""
        with _timed("draw the pictures"):
            return Drawn.draw()

    def train_first(self) -> None:
        """Train, export and release a model of the old world."""
        folder = save(self.drawn.taught, WORK / "old-world")
        for one in self.drawn.before[:2]:
            (HERE / "smoke" / f"{one.label}.jpg").write_bytes(one.data)
        _must(_make("train", f"DATA={folder}"))
        _must(_make("release"))
        _must(_call("promote", "python", "-m", "training", "promote", "models/release/model.pt"))
        shutil.copy(_RELEASED, _FIRST)

    def build_first(self, arguments: str) -> None:
        """Build its image; the loop builds with the same arguments."""
        os.environ |= {"BUILD_ARGS": arguments, "STATE": str(STATE), "URL": URL, "SERVING_API_KEY": KEY}
        self._image = build("first", _RELEASED.relative_to(ROOT), arguments)[0]

    def deploy_first(self) -> None:
        """Deploy it, with review and feedback."""
        settings = WORK / "service.env"
        settings.write_text(_SETTINGS)
        done = deploy("deploy", self._image, "--env-file", str(settings))
        self.record.check("a first model serves", done.returncode == 0, _failure(done))

    def drift(self) -> None:
        """Send the old world, then the new one, until the alert reaches its receiver."""
        before = send(self.drawn.before)
        right = kept.accuracy(before)
        self.record.check("it knows the old world", right.low > 0.95, f"{percent(right)} right")
        early = until(_fired, _HOLDS_SECONDS + 5)
        self.record.check("which raises no drift alert", not early)
        began = time.monotonic()
        after = send(self.drawn.after)
        heard = until(_fired, 60)
        took = time.monotonic() - began
        self.record.check("the world drifts: the alert reaches its receiver", heard, f"{took:.0f} s")
        right = kept.accuracy(after)
        self.record.check(
            "the first model does not know the new world", right.high < 0.85, f"{percent(right)} right"
        )
        self._answered = before + after

    def review(self) -> None:
        """Look at the queue with the truth at hand; then two people label on the page."""
        known = truth(self.drawn.before, self.drawn.after)
        time.sleep(2)  # the queue writes behind the answers
        queue = kept.read(STATE / "data/review.db", known)
        worth = kept.precision(queue, self._answered, lambda one: one.wrong or one.picture.world == NEW)
        self.record.check(
            "the queue has the right photos: of the new world, or answered wrong",
            worth.better_than_chance,
            str(worth),
        )
        wrong = kept.precision(queue, self._answered, lambda one: one.wrong)
        caught = sum(one.wrong for one in queue), sum(one.wrong for one in self._answered)
        self.record.check("wrong answers are more frequent in it", wrong.better_than_chance, str(wrong))
        self.record.check(
            "most wrong answers are in it",
            2 * caught[0] > caught[1],
            percent(wilson(*caught)) + " of the wrong ones",
        )
        ada, bob = Reviewer("ada"), Reviewer("bob", mistaken_every=20)
        with _timed("label"), desk(known) as page:
            page.sit_down(ada)
            page.picture(WORK / "review-before.png")
            page.label(ada, _LABELS)
            page.picture(WORK / "review-after.png")
            page.sit_down(bob)
            page.label(bob, _SECOND_LABELS)
            page.picture(WORK / "review-second.png")
        took = statistics.median(ada.seconds + bob.seconds)
        self.record.check(
            "two people label by keyboard on the page, in Chromium",
            (ada.answers, bob.answers) == (_LABELS, _SECOND_LABELS),
            f"{ada.answers} and {bob.answers} labels, {took:.2f} s each (median)",
        )
        progress = ask("/review/progress")
        self.record.check(
            "the second is mistaken now and then, which their agreement shows",
            progress["kappa"] is not None and 0.5 < progress["kappa"] < 1,
            f"kappa {progress['kappa']:.2f}, {progress['agreed']} of {progress['seen_by_two']} photos",
        )

    def improve(self) -> None:
        """Retrain by `make loop`, and judge both models on pictures that neither has seen."""
        done = _make("loop", f"ADD={URL}/review/export")
        shutil.copy(ROOT / "build/loop/report.md", WORK / "loop-report.md")
        self.record.check(
            "make loop: the gates allow the new model on both worlds", done.returncode == 0, _failure(done)
        )
        for world, least in ((NEW, _MARGIN), (OLD, -_FORGOTTEN)):
            found = compare(_RELEASED, _FIRST, _files(world, self.drawn.held[world]))
            before, after = found.champion.accuracy, found.candidate.accuracy
            gap = found.accuracy_difference
            figure = (
                f"{percent(before)} before, {percent(after)} after: {100 * gap.value:+.1f} points "
                f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}], McNemar's p = {found.mcnemar_p:.1g}"
            )
            what = (
                "is better on the new world by 5 points or more"
                if world == NEW
                else "does not forget the old world"
            )
            self.record.check(f"the new model {what}", gap.low > least, figure)

    def go_live(self) -> None:
        """Deploy the new model by canary under load; take its photos as the reference."""
        with Load(*(one.data for one in self.drawn.after[:100]), key=KEY) as load:
            tag = f"127.0.0.1:{PORTS['registry']}/cats-dogs-api:second"
            options = "DEPLOY_OPTIONS=--canary 30 --bake 40s --network host"
            with load.during() as counted:
                done = _make("loop", "ONLY=deploy", f"IMAGE={tag}", "RUNTIME=onnx", options)
            bakes = [line for line in done.stdout.splitlines() if "of the bake" in line]
            seen = bakes[-1].split(": ", 1)[-1] if bakes else _failure(done)
            self.record.check("it goes live by canary, 30 % for 40 s", self._serves_released(), seen)
            self.record.check("no request is lost meanwhile", not failures(counted), show(counted))
            self._move_reference()
            counted = Counter(outcome for _, outcome in load.seen)
        self.record.check("all requests of the load", not failures(counted), show(counted))

    def _serves_released(self) -> bool:
        version = json.loads((ROOT / "models/release/card.json").read_text())["version"]
        return bool(ask("/health")["model"]["version"] == version)

    def _move_reference(self) -> None:
        send(self.drawn.after[:300])
        done = _make("drift-reference", f"URL={URL}", f"MODEL={_RELEASED}")
        image = build("reference", _RELEASED.relative_to(ROOT), os.environ["BUILD_ARGS"])[0]
        deployed = deploy("deploy", image)
        self.record.check(
            "the new world becomes the drift reference",
            done.returncode == deployed.returncode == 0,
            _failure(done) or _failure(deployed),
        )
        began = time.monotonic()
        send(self.drawn.after[300:])
        clear = until(lambda: not _fired() and not firing(_ALERT), 60)
        still = clear and not until(lambda: firing(_ALERT), _HOLDS_SECONDS + 5)
        took = time.monotonic() - began
        photos = ask("/drift")["photos"]
        self.record.check("the alert clears", still, f"{took:.0f} s, {photos} photos in the window")

    def poison(self) -> None:
        """A caller calls every answer wrong that is right; what that would teach is refused."""
        released = _sha256(_RELEASED)
        send_and_lie(self.drawn.lied_about, _OTHER)
        done = _make("loop", f"ADD={STATE}/data/feedback.db")
        report = (ROOT / "build/loop/report.md").read_text()
        shutil.copy(ROOT / "build/loop/report.md", WORK / "poisoned-report.md")
        self.record.check(
            f"a caller lies about {len(self.drawn.lied_about)} labels: a gate refuses what that taught",
            "Error 1" in done.stderr and "refused" in report,
        )
        verdicts = re.findall(r"^- (\w+, \d+ photos: .*)$", report, re.MULTILINE)
        refused = any("REFUSED: " in verdict for verdict in verdicts)
        self.record.check("the report says why", refused, " ".join(verdicts))
        self.record.check(
            "the released model still serves", released == _sha256(_RELEASED) and self._serves_released()
        )


def _fired() -> bool:
    """Whether the last notification of the alert says that it fires."""
    states = [status for name, status in Webhook.alerts if name == _ALERT]
    return bool(states) and states[-1] == "firing"


def _files(world: str, found: Sequence[Picture]) -> list[tuple[Path, str]]:
    folder = save(found, WORK / f"held-{world}")
    return [(path, path.parent.name) for path in sorted(folder.rglob("*.jpg"))]


def _make(target: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Call a target as an operator does; its output is in a log of its own."""
    return _call(target, "make", "--no-print-directory", target, *words)


def _call(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    with _timed(" ".join(command[:4])):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    with (WORK / f"{name}.log").open("a") as log:
        log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}exit {done.returncode}\n\n")
    return done


def _must(done: subprocess.CompletedProcess[str]) -> None:
    """End the rehearsal if a command failed on which all else rests."""
    if done.returncode:
        raise SystemExit(f"error: {' '.join(done.args)} failed:\n{done.stderr[-2000:]}")


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a command printed, if it failed; in a cell of the transcript."""
    text = (done.stdout + done.stderr)[-200:] if done.returncode else ""
    return text.replace("\n", " ").replace("|", "/")


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"     {what}: {time.monotonic() - began:.0f} s", flush=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
