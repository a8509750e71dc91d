"""The steps of a deploy and of a rollback, and the recovery when one fails."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from host import canary
from host.books import PORTS, Books, Release, State, now
from host.checks import fields, request, smoke, smoke_photos, validate, wait_for
from host.containers import Containers
from host.errors import DeployError, RefusedError
from host.proxy import Proxy
from host.settings import SettingsFolder, changes, first_key


@dataclass(frozen=True)
class Wish:
    """What an operator asks for; None takes over what the active release has."""

    settings: str | None = None
    """Lines of `NAME=value`."""
    memory: str | None = None
    shadow: str | None = None
    """Image whose model answers in the background, "" for none."""
    canary: int = 0
    """Percent of the traffic that the candidate gets before all of it; 0 for none."""
    bake_seconds: float = 600
    retrained: bool = False
    """It may predict otherwise than the active release: labelled photos have shown that it is right."""


_AT_ONCE: Final = Wish()


class Deployer:
    """Deploys and rolls back the service on this host."""

    def __init__(
        self, books: Books, engine: Containers, proxy: Proxy, smoke: Path, ready_seconds: float
    ) -> None:
        self.books, self.engine, self.proxy = books, engine, proxy
        self.settings = SettingsFolder(books.folder)
        self._smoke, self._ready_seconds = smoke, ready_seconds

    @property
    def state(self) -> State:
        """The saved state of this host."""
        return self.books.state

    def deploy(self, image: str, wish: Wish) -> str:
        """Replace the active release by `image`; return the closing message.

        Raises:
            DeployError: a check failed, or a part of the host; the active release keeps serving if it lives.
        """
        self.settle()
        active = self.state.active
        digest = image.rsplit(":", 1)[-1]
        candidate = Release(
            image,
            f"cats-dogs-{digest[:12]}-{uuid.uuid4().hex[:6]}",
            self._idle_slot(),
            "",
            now(),
            settings=self._settings(wish),
            memory=wish.memory or (active.memory if active else "2g"),
            shadow=(active.shadow if active else "") if wish.shadow is None else wish.shadow,
        )
        if active and _same(active, candidate) and self._serves(active):
            return f"{image} is serving already."
        say(f"pull {image}")
        self.engine.run("pull", image)
        if candidate.shadow:
            self.engine.fetch_shadow(candidate.shadow)
        self._replace(candidate, wish)
        return f"{image} serves, model {self.state.active.model if self.state.active else '?'}."

    def _settings(self, wish: Wish) -> str:
        """Store the settings that are asked for, or else those of the active release; say what changes."""
        active = self.state.active
        before = active.settings or "" if active else ""
        if wish.settings is None:
            if before:
                say(f"settings as before: {', '.join(self.settings.read(before))}")
            return before
        name = self.settings.keep(wish.settings)
        if active:
            self._say_changes(before, name)
        return name

    def _say_changes(self, before: str | None, after: str | None) -> None:
        for line in changes(self.settings.read(before), self.settings.read(after)):
            say(f"settings: {line}")

    def rollback(self, only_from: str = "") -> str:
        """Return to the previous release, with its settings; return the closing message.

        Args:
            only_from: Image that must be the active one; empty for any.

        Raises:
            DeployError: there is no previous release, a check failed, or a part of the host.
        """
        if self.state.candidate or self.state.previous:
            self.settle()
        previous, active = self.state.previous, self.state.active
        if only_from and active and active.image != only_from:
            raise RefusedError(f"{active.image} is deployed, not {only_from}: nothing to roll back.")
        if previous is None:
            raise RefusedError(
                "There is no earlier release on this host to roll back to. Deploy the digest that you want."
            )
        if previous.slot != self._idle_slot():  # the active release is in its slot: it needs a new container
            name = f"{previous.container.rsplit('-', 1)[0]}-{uuid.uuid4().hex[:6]}"
            previous = replace(previous, container=name, slot=self._idle_slot())
        if active:
            self._say_changes(active.settings, previous.settings)
        self._replace(previous)
        return f"{previous.image} serves again."

    def settle(self) -> None:
        """Finish or revert what an earlier call left unfinished; remove containers that nobody knows of."""
        state = self.state
        self.engine.run("version")  # without an engine, stop before anything changes
        self.proxy.active()
        smoke_photos(self._smoke)
        if state.candidate and state.phase == "draining" and self.engine.running(state.candidate.container):
            say(f"the last deploy was interrupted after the switch; finish it: {state.candidate.image}")
            self._finish(state.candidate)
        elif state.candidate:
            say(
                f"the last deploy was interrupted while {state.phase}; revert it: {state.candidate.container}"
            )
            for problem in self._revert(state.candidate):
                say(f"warning: {problem}")
        state.active, state.previous = self._adopted(state.active), self._adopted(state.previous)
        kept = {release.container for release in (state.active, state.previous) if release}
        for container in self.engine.ours() if self.books.written else []:
            if container not in kept:
                say(f"remove {container}, which an earlier call left")
                self.engine.remove(container)
        if state.active and not self.engine.running(state.active.container):
            say(f"{state.active.container}, the active release, is not running; start it again")
            self._start_again(state.active)

    def _adopted(self, release: Release | None) -> Release | None:
        """Return the release with its container's settings, if an earlier version of this program made it."""
        if release is None or release.settings is not None:
            return release
        return replace(release, settings=self.settings.keep(self.engine.settings(release.container)))

    def _start_again(self, release: Release) -> None:
        """Start a release that has died, as far as that is possible: it may be what is broken."""
        with contextlib.suppress(DeployError):
            self.engine.start(release, self.settings.path(release.settings))

    def _idle_slot(self) -> str:
        active = self.state.active
        return "green" if active and active.slot == "blue" else "blue"

    def _replace(self, candidate: Release, wish: Wish = _AT_ONCE) -> None:
        """Start, check, bake, switch, verify, drain; revert if a step fails."""
        state = self.state
        state.candidate, state.phase = candidate, "starting"
        try:
            self.books.save()
            previous = state.previous
            if previous and previous.container != candidate.container and previous.slot == candidate.slot:
                self.engine.stop(previous.container)  # an engine that was away may not have stopped it
            self.proxy.close(candidate.slot)
            say(f"start {candidate.container} in the {candidate.slot} slot")
            self.engine.start(candidate, self.settings.path(candidate.settings))
            candidate = self._prove(candidate)
            if wish.canary and state.active:
                state.candidate, state.phase = candidate, "baking"
                self.books.save()
                self._bake(candidate, state.active, wish)
            state.candidate, state.phase = candidate, "switching"
            self.books.save()
            say(f"switch to {candidate.slot}")
            self.proxy.open(candidate.slot)
            self.proxy.switch(candidate.slot)
            self._verify(candidate)
            if state.active:
                say(f"drain {state.active.container}")
                self._drain(state.active.slot, 30)
            state.phase = "draining"
            self.books.save()
            if not self.engine.running(candidate.container):
                raise RefusedError(
                    "check 'public' failed: the container exited after the switch; its log is below."
                )
        except DeployError as error:
            raise self._refused(candidate, error) from error
        self._finish(candidate)

    def _refused(self, candidate: Release, error: DeployError) -> DeployError:
        """Revert; return the error with the container's log, and what serves now."""
        log = self.engine.log(candidate.container)
        problems = self._revert(candidate)
        self.books.note("refused", image=candidate.image, reason=str(error))
        active = self.state.active
        if active is None:
            serving = "Nothing was serving before"
        elif self._serves(active):
            serving = f"{active.image} keeps serving"
        else:
            serving = (
                f"{active.image} does not answer either: deploy another image, or roll back. Its log: "
                f"{self.engine.log(active.container, 5) or 'none'}"
            )
        warnings = "".join(f"warning: {problem}\n" for problem in problems)
        return type(error)(f"{error}\n--- log of {candidate.container} ---\n{log}\n---\n{warnings}{serving}.")

    def _prove(self, candidate: Release) -> Release:
        """Wait for the candidate and check its identity, model and predictions; return it with its model."""
        url = f"http://127.0.0.1:{PORTS[candidate.slot]}"
        began = time.monotonic()
        alive = self._watch(candidate, "ready")
        model = validate(url, candidate.digest, self._smoke, self._key(candidate), self._ready_seconds, alive)
        self._check_model(candidate, model)
        say(f"ready and checked after {time.monotonic() - began:.1f} s: model {model['version']}")
        return replace(candidate, model=model["version"], deployed_at=now())

    def _watch(self, candidate: Release, check: str) -> Callable[[], None]:
        """Return a function that raises once the container has exited, even if the engine restarts it."""
        restarts = self.engine.restarts(candidate.container)

        def alive() -> None:
            name = candidate.container
            if not self.engine.running(name) or self.engine.restarts(name) > restarts:
                raise RefusedError(f"check '{check}' failed: the container exited; its log is below.")

        return alive

    def _key(self, release: Release) -> str:
        return first_key(self.settings.read(release.settings))

    def _check_model(self, candidate: Release, model: dict[str, str]) -> None:
        """Check that the served model is the one named by the image's label."""
        inspect = self.engine.run(
            "inspect", "--format", '{{index .Config.Labels "model.sha256"}}', candidate.container
        )
        label = inspect.stdout.strip()
        if re.fullmatch("[0-9a-f]{64}", label) and label != model["sha256"]:
            raise RefusedError(
                f"check 'model' failed: the image is labelled with model {label[:12]} but serves "
                f"{model['sha256'][:12]}. Build the image again."
            )

    def _bake(self, candidate: Release, active: Release, wish: Wish) -> None:
        """Give the candidate a share of the traffic, and compare it with the active release.

        Raises:
            RefusedError: it is worse, predicts otherwise, or had too few requests for a judgement.
        """
        seconds = wish.bake_seconds
        sides = [(f"http://127.0.0.1:{PORTS[side.slot]}", self._key(side)) for side in (candidate, active)]
        alive = self._watch(candidate, "canary")
        if not self.engine.running(active.container):
            say("the active release is not running: the candidate takes over without a comparison")
            return
        before = [canary.counts(*side) for side in sides]
        self.proxy.open(candidate.slot)
        self.proxy.share(candidate.slot, wish.canary)
        say(f"{wish.canary} % of the traffic for {seconds:g} s")
        for look in range(1, canary.LOOKS + 1):
            until = time.monotonic() + seconds / canary.LOOKS
            while time.monotonic() < until:
                alive()
                time.sleep(min(1.0, seconds / canary.LOOKS / 5))
            if not self.engine.running(active.container):
                say("the active release has died during the bake: the candidate takes over")
                return
            new, old = (canary.counts(*side).since(first) for side, first in zip(sides, before, strict=True))
            say(
                f"{look * 100 // canary.LOOKS} % of the bake: {new.requests} requests, {new.failed} failed; "
                f"the active release {old.requests}, {old.failed} failed"
            )
            if worse := canary.differences(new, old, predictions=not wish.retrained):
                raise RefusedError(f"check 'canary' failed: {'; '.join(worse)}.")
        if not canary.noticed(new, old):
            raise RefusedError(
                f"check 'canary' failed: {new.requests} requests in {seconds:g} s are too few to notice that "
                f"{canary.RISE:.0%} of them fail. Give it more of the traffic (--canary) or "
                "more time (--bake)."
            )

    def _verify(self, candidate: Release) -> None:
        """Check that the public address reports the candidate ten times in a row, and predicts correctly."""
        for _ in range(10):
            if not self._serves(candidate):
                raise RefusedError(
                    f"check 'public' failed: {self.proxy.url} does not report the new release. "
                    "Is --url the address of this host's haproxy?"
                )
            time.sleep(0.1)
        smoke(self.proxy.url, self._smoke, self._key(candidate))

    def _serves(self, release: Release) -> bool:
        status, text = request(f"{self.proxy.url}/health")
        return (
            status == 200
            and fields(text).get("deployment") == release.digest
            and self.engine.running(release.container)
        )

    def _revert(self, candidate: Release) -> list[str]:
        """Return all traffic to the active release and remove the candidate; keep the one for rollback.

        Each part is tried whatever became of the others, since the host may be half broken. Without haproxy
        the map in the file holds, which haproxy reads at its next start.

        Returns:
            What could not be done.
        """
        state, problems = self.state, []

        def attempt(step: Callable[..., object], *arguments: object) -> None:
            try:
                step(*arguments)
            except DeployError as error:
                problems.append(str(error))

        if state.active:
            if self.engine.running(state.active.container):
                attempt(self.proxy.open, state.active.slot)
            else:
                self._start_again(state.active)
            attempt(self.proxy.switch, state.active.slot)
        if state.phase != "starting":  # it has had traffic
            self._drain(candidate.slot, 10)
            self.engine.stop(candidate.container)
        attempt(self.proxy.close, candidate.slot)
        if state.previous and candidate.container == state.previous.container:
            self.engine.stop(candidate.container)
        else:
            self.engine.remove(candidate.container)
        state.candidate, state.phase = None, "idle"
        attempt(self.books.save)
        self._discard({candidate})
        return problems

    def _drain(self, slot: str, seconds: float) -> None:
        """Wait until the slot has answered its last request; after `seconds` it drains the rest itself."""
        with contextlib.suppress(DeployError):
            wait_for(lambda: self.proxy.open_requests(slot) == 0, seconds, "requests are still open")

    def _finish(self, candidate: Release) -> None:
        """Stop and keep the old release; remove the one before it.

        Raises:
            DeployError: the state cannot be written.
        """
        state = self.state
        old, oldest = state.active, state.previous
        if old:
            with contextlib.suppress(DeployError):
                self.proxy.close(old.slot)
            self.engine.stop(old.container)
        if oldest and oldest.container != candidate.container:
            self.engine.remove(oldest.container)
        state.active, state.previous, state.candidate, state.phase = candidate, old, None, "idle"
        self.books.save()
        self.books.note("deployed", image=candidate.image, model=candidate.model)
        self._discard({oldest} if oldest else set())

    def _discard(self, releases: set[Release]) -> None:
        """Remove the images, models and settings of releases that are no longer kept."""
        kept = [release for release in (self.state.active, self.state.previous) if release]
        needed = {image for release in kept for image in (release.image, release.shadow)}
        self.engine.discard(
            {image for release in releases for image in (release.image, release.shadow) if image} - needed
        )
        self.engine.discard_shadows({release.shadow for release in kept})
        self.settings.discard_all_but({release.settings for release in kept})


def _same(active: Release, candidate: Release) -> bool:
    """Report whether a deploy would change nothing."""
    names = ("image", "settings", "memory", "shadow")
    return all(getattr(active, name) == getattr(candidate, name) for name in names)


def say(text: str) -> None:
    """Print a progress line with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
