"""`make rehearse-faults`: each part of a host fails at each step, under load, with the real haproxy.

Whatever happened, the next good deploy succeeds without a hand on a file, and no request is lost as long as
haproxy and the release that serves are alive. Each case adds a row to `build/faults`.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import host.books as books_module
from host.books import PORTS
from host.proxy import Proxy
from tests.deploy.conftest import Host, Steps
from tests.deploy.stand_ins import free_port, photo
from tests.deploy.test_kills import LOOKS, Killed
from tests.deploy.test_proxy import HAPROXY, haproxy_configuration
from tests.tiny import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")]
CALLERS = 6
FASTER = 10
"""How much faster the deploys' clock runs."""


class FastClock:
    """A clock that runs faster than the real one, and can jump."""

    monotonic = staticmethod(lambda: time.monotonic() * FASTER)
    sleep = staticmethod(lambda seconds: time.sleep(seconds / FASTER))
    strftime, gmtime = time.strftime, time.gmtime


class RealHost(Host):
    """A host with the real haproxy and callers; the engine is a stand-in."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._running: subprocess.Popen[bytes] | None = None

    def start_haproxy(self) -> None:
        """Start it, as a supervisor does, and wait until it listens."""
        environment = os.environ | {"STATE": str(self.state_folder), "PORT": str(self.port)}
        self._running = subprocess.Popen([HAPROXY, "-f", haproxy_configuration(self.folder)], env=environment)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                Proxy(self.state_folder, "", restart_seconds=0).active()
                return
            time.sleep(0.01)
        raise AssertionError("haproxy did not start")

    def kill_haproxy(self) -> None:
        """Kill it."""
        self._running.kill()
        self._running.wait()

    def traffic(self) -> str:
        """Return the slot that has the traffic."""
        return Proxy(self.state_folder, "").active()

    def serving(self) -> str:
        """Return the digest that the public address reports, or its error."""
        try:
            answer = httpx.get(f"{self.url}/health")
        except httpx.HTTPError as error:
            return type(error).__name__
        return answer.json()["deployment"] if answer.status_code == 200 else str(answer.status_code)


@dataclass
class Callers:
    """Callers with persistent connections who count what they get."""

    url: str
    seen: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _call(self) -> None:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
        for number in itertools.count():
            if self._stop.wait(0.01):
                connection.close()
                return
            try:
                connection.request("POST", "/predict", photo(("cat", "dog")[number % 2]))
                response = connection.getresponse()
                response.read()
                outcome = str(response.status)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                outcome = type(error).__name__
            self.seen[outcome] += 1

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Call, each in a thread."""
        threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    @property
    def lost(self) -> int:
        """The number of requests without an answer."""
        return sum(count for outcome, count in self.seen.items() if outcome != "200")


@pytest.fixture
def real_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[RealHost]:
    """A host on which the real haproxy runs."""
    for slot in PORTS:
        monkeypatch.setitem(PORTS, slot, free_port())
    for module in ("host.checks", "host.steps"):
        monkeypatch.setattr(f"{module}.time", FastClock)
    made = RealHost(tmp_path, FastClock, capsys)
    monkeypatch.setattr("host.containers.subprocess", SimpleNamespace(run=made.engine.run))
    Proxy(made.state_folder, "").prepare()
    made.start_haproxy()
    yield made
    made.kill_haproxy()
    made.empty()


WHATS = {
    "deploy": lambda host: ("deploy", host.image("new")),
    "rollback": lambda _: ("rollback",),
    "canary": lambda host: ("deploy", host.image("new"), "--canary", "50", "--bake", "15s"),
    "refused deploy": lambda host: ("deploy", host.image("bad", label="b" * 64)),
}


class Fault:
    """What happens at a step; `mend` ends it before the next deploy."""

    def __init__(self, host: RealHost, patch: pytest.MonkeyPatch) -> None:
        self.host, self.patch = host, patch

    def strike(self) -> None:
        """Let it happen."""

    def mend(self) -> None:
        """Repair what no deploy can repair: the engine is started again, the disk has space."""
        self.patch.undo()


class DeployerKilled(Fault):
    """SIGKILL, a lost ssh connection, a reboot of the machine that deploys."""

    def strike(self) -> None:
        raise Killed


class EngineAway(Fault):
    """The daemon does not answer; the containers go on."""

    def strike(self) -> None:
        gone = subprocess.CompletedProcess([], 1, "", "Cannot connect to the Docker daemon. Is it running?")
        self.patch.setattr("host.containers.subprocess", SimpleNamespace(run=lambda *_, **__: gone))


class ProxyRestarts(Fault):
    """It dies, and its supervisor starts it again at once."""

    def strike(self) -> None:
        self.host.kill_haproxy()
        self.host.start_haproxy()


class ProxyAway(Fault):
    """It dies, and somebody starts it again after the call."""

    def strike(self) -> None:
        self.host.kill_haproxy()

    def mend(self) -> None:
        self.host.start_haproxy()


class OldDies(Fault):
    """The release that serves dies for good."""

    which = "active"
    alone = True
    """Nothing else could serve when it died."""

    def strike(self) -> None:
        release = self.host.state[self.which]
        container = self.host.engine.containers.get(release["container"]) if release else None
        if container:
            container.stop()
            container.start = lambda: None


class NewDies(OldDies):
    """The new container dies for good."""

    which = "candidate"

    def strike(self) -> None:
        self.alone = self.host.state["phase"] in ("draining", "idle")  # the old one has been told to stop
        super().strike()


class DiskFull(Fault):
    """No file can be written."""

    def strike(self) -> None:
        original = Path.open

        def full(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
            if set(mode) & set("wa+x"):
                raise OSError(28, "No space left on device")
            return original(path, mode, *arguments, **options)

        self.patch.setattr(Path, "open", full)


class RegistryAway(Fault):
    """Nothing can be pulled."""

    def strike(self) -> None:
        images = self.host.engine.images
        self.patch.setattr(
            self.host.engine, "images", {k: v for k, v in images.items() if "new" not in k and "bad" not in k}
        )


class ClockJumps(Fault):
    """The time is set back by a day."""

    def strike(self) -> None:
        moved = SimpleNamespace(strftime=time.strftime, gmtime=lambda: time.gmtime(time.time() - 86_400))
        self.patch.setattr(books_module, "time", moved)


FAULTS = (
    *(DeployerKilled, EngineAway, ProxyRestarts, ProxyAway, OldDies, NewDies, DiskFull, RegistryAway),
    ClockJumps,
)


def steps_of(host: RealHost, steps: Steps, what: str) -> list[str]:
    """Return the steps with an effect of an undisturbed call."""
    seen: list[str] = []
    steps.watcher = lambda step: None if step.startswith(LOOKS) else seen.append(step)
    done = host.call(*WHATS[what](host))
    steps.watcher = lambda _: None
    assert done.status == (what == "refused deploy"), done.err
    return seen


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", WHATS)
def test_the_next_good_deploy_succeeds_whatever_failed(
    real_host: RealHost, steps: Steps, monkeypatch: pytest.MonkeyPatch, what: str, fault: type[Fault]
):
    """At each step in turn; a fault strikes once and lasts until the call has ended."""
    host, numbers, outcomes, lost = real_host, itertools.count(), Counter[str](), Counter[str]()
    host.deploy(host.image("a"))
    host.deploy(host.image("b"))
    callers = Callers(host.url)
    with callers.calling():
        length = len(steps_of(host, steps, what))
    assert callers.lost == 0, callers.seen
    for at in range(length):
        ready = host.image(f"ready-{next(numbers)}")
        host.deploy(ready)
        with pytest.MonkeyPatch.context() as patch:
            striking, names = fault(host, patch), iter(range(at))
            struck: list[str] = []

            def strike(
                step: str,
                names: Iterator[int] = names,
                struck: list[str] = struck,
                striking: Fault = striking,
            ) -> None:
                if not step.startswith(LOOKS) and not struck and next(names, None) is None:
                    struck.append(step)
                    striking.strike()

            callers = Callers(host.url)
            with callers.calling():
                time.sleep(0.05)
                steps.watcher = strike
                try:
                    done = host.call(*WHATS[what](host))
                    outcome = {0: "done", 1: "refused", 2: "wrong call"}[done.status]
                    assert done.status != 2, done.err
                except Killed:
                    outcome = "killed"
                steps.watcher = lambda _: None
                time.sleep(0.05)
                serving = host.serving()
            if not struck:
                break
            striking.mend()
        outcomes[outcome] += 1
        lost[struck[0]] += callers.lost
        if not issubclass(fault, ProxyRestarts | ProxyAway) and not getattr(striking, "alone", False):
            assert serving.startswith("sha256:"), (struck, outcome, serving)
            assert callers.lost == 0, (struck, outcome, callers.seen)
        good = host.image(f"good-{next(numbers)}")
        after = host.call("deploy", good)
        assert after.status == 0, (struck, after.err)
        host.assert_in_order(good, (host.state["previous"] or {}).get("image"))
    write_row(what, fault, outcomes, lost)


def write_row(what: str, fault: type[Fault], outcomes: Counter[str], lost: Counter[str]) -> None:
    """Save the row of the table."""
    folder = ROOT / "build/faults"
    folder.mkdir(parents=True, exist_ok=True)
    shown = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    total = sum(outcomes.values())
    (folder / f"{what}-{fault.__name__}.md").write_text(
        f"| {what} | {fault.__doc__.rstrip('.')} | {total} | {shown} "
        f"| {lost.total()} | {total} of {total} |\n"
    )
