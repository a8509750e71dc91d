"""A simulated host to deploy on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import deploy

sys.path.extend(deploy.__path__)  # where a copied deploy.py finds host/

import host.proxy as proxy_module
from deploy import deploy as command
from host.books import PORTS, Books, Release
from host.containers import Containers
from host.proxy import Proxy
from tests.deploy.haproxy import Haproxy
from tests.deploy.stand_ins import LABELS, Clock, Engine, Image, free_port, photo

RELEASE = Release("registry/api@sha256:" + "c" * 64, "api-1", "green", "7", "2026-01-01T00:00:00Z", "")


@dataclass(frozen=True)
class Done:
    """The result of a call of deploy.py."""

    status: int
    out: str
    err: str


class Host:
    """A host for deploy.py: its folder, an engine and haproxy."""

    def __init__(self, folder: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.clock, self._capsys = folder, clock, capsys
        self.state_folder = folder / "state"
        self.state_folder.mkdir()
        self.engine = Engine()
        self.haproxy = Haproxy(self.engine, self.state_folder)
        self.url = ""
        self.smoke = folder / "smoke"
        self.smoke.mkdir()
        for label in LABELS:
            (self.smoke / f"{label}.jpg").write_bytes(photo(label))

    def image(self, name: str, **what: object) -> str:
        """Add an image that can be pulled; return its name by digest."""
        reference = f"registry/{name}@sha256:{name.encode().hex():0<64.64}"
        self.engine.images[reference] = Image(name, **what)
        return reference

    def call(self, *words: object) -> Done:
        """Call deploy.py as an operator does."""
        options = ("--state", self.state_folder, "--url", self.url, "--smoke", self.smoke)
        status = command.main([str(word) for word in (*words, *options)])
        return Done(status, *self._capsys.readouterr())

    def deploy(self, image: str) -> Done:
        """Deploy an image that must succeed."""
        done = self.call("deploy", image)
        assert done.status == 0, done.err
        return done

    def empty(self) -> None:
        """Return to the state before the first deploy."""
        for container in self.engine.containers.values():
            container.stop()
        self.engine.containers.clear()
        (self.state_folder / "state.json").unlink(missing_ok=True)

    @property
    def state(self) -> dict[str, object]:
        """The saved state."""
        return json.loads((self.state_folder / "state.json").read_text())

    @property
    def journal(self) -> list[dict[str, str]]:
        """The events of the journal."""
        lines = (self.state_folder / "history.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def serving(self) -> str:
        """Return the digest that the public address reports, or its error status."""
        status, text = self.haproxy.answer("/health", b"", {})
        return json.loads(text)["deployment"] if status == 200 else str(status)

    def assert_in_order(self, image: str, kept: str | None = None) -> None:
        """Assert that `image` serves, `kept` is kept, nothing else is left, and all records agree."""
        state = self.state
        assert self.serving() == image.rsplit("@", 1)[-1]
        assert (state["phase"], state["candidate"]) == ("idle", None)
        active, previous = state["active"], state["previous"]
        assert active["image"] == image
        assert (previous and previous["image"]) == kept
        containers = self.engine.containers
        assert {name for name, container in containers.items() if container.running} == {active["container"]}
        assert set(containers) == {release["container"] for release in (active, previous) if release}
        assert (self.state_folder / "active.map").read_text() == f"active {self.traffic()}\n"
        assert self.traffic() == active["slot"]

    def traffic(self) -> str:
        """Return the slot that has the traffic."""
        return self.haproxy.active


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for deploy/host, on which waiting takes no time."""
    simulated = Clock()
    for module in ("host.checks", "host.steps"):
        monkeypatch.setattr(f"{module}.time", simulated)
    return simulated


@pytest.fixture
def host(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Host]:
    """A host on which nothing has been deployed yet."""
    monkeypatch.delenv("SERVING_API_KEY", raising=False)
    for slot in PORTS:
        monkeypatch.setitem(PORTS, slot, free_port())
    made = Host(tmp_path, clock, capsys)
    monkeypatch.setattr("host.containers.subprocess", SimpleNamespace(run=made.engine.run))
    with made.haproxy.serve() as made.url:
        yield made
        made.empty()


class Steps:
    """Calls a watcher before each command to the engine and to haproxy, and before each write."""

    def __init__(self) -> None:
        self.watcher: Callable[[str], None] = lambda _: None

    def watch(self, owner: object, name: str, words: Callable[..., str], patch: pytest.MonkeyPatch) -> None:
        """Call the watcher with `words` before each call of `owner.name`."""
        original = getattr(owner, name)

        def wrapped(*arguments: object, **options: object) -> object:
            self.watcher(words(*arguments))
            return original(*arguments, **options)

        patch.setattr(owner, name, wrapped)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The steps of deploy.py; set `watcher` to observe each."""
    observed = Steps()
    observed.watch(Containers, "run", lambda _, *words: f"engine {words[0]}", monkeypatch)
    observed.watch(Proxy, "ask", lambda _, command: f"haproxy {command}", monkeypatch)
    observed.watch(Books, "save", lambda books: f"write state: {books.state.phase}", monkeypatch)
    observed.watch(Books, "note", lambda _, event, **__: f"write journal: {event}", monkeypatch)
    observed.watch(proxy_module, "write_whole", lambda path, text: f"write {path.name}: {text}", monkeypatch)
    return observed
