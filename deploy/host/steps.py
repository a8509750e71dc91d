"""The steps of a deploy and of a rollback, and what is done when one fails."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from pathlib import Path

from host.books import Books, Release, State, now
from host.checks import fields, request, smoke, smoke_photos, validate, wait_for
from host.containers import PORTS, Containers
from host.errors import RefusedError
from host.proxy import Proxy


class Deployer:
    """The steps."""

    def __init__(
        self, books: Books, engine: Containers, proxy: Proxy, smoke: Path, ready_seconds: float, key: str
    ) -> None:
        self.books, self.engine, self.proxy = books, engine, proxy
        self._smoke, self._ready_seconds, self._key = smoke, ready_seconds, key

    @property
    def state(self) -> State:
        """What is known of this host."""
        return self.books.state

    def deploy(self, image: str) -> str:
        """Let `image` serve; return what to tell.

        Raises:
            RefusedError: it does not pass; the release before serves on.
        """
        self.settle()
        active = self.state.active
        if active and active.image == image and self._serves(active):
            return f"{image} serves already."
        say(f"pull {image}")
        self.engine.run("pull", image)
        digest = image.rsplit(":", 1)[-1]
        slot = self._idle_slot()
        self._replace(Release(image, f"cats-dogs-{digest[:12]}-{uuid.uuid4().hex[:6]}", slot, "", now()))
        return f"{image} serves, model {self.state.active.model if self.state.active else '?'}."

    def rollback(self) -> str:
        """Let the release before serve again; return what to tell.

        Raises:
            RefusedError: there is none, or it does not pass.
        """
        if self.state.candidate or self.state.previous:
            self.settle()
        previous = self.state.previous
        if previous is None:
            raise RefusedError("There is no earlier release on this host to go back to.")
        if (
            previous.slot != self._idle_slot()
        ):  # its slot is taken by what serves: a new container of its image
            name = f"{previous.container.rsplit('-', 1)[0]}-{uuid.uuid4().hex[:6]}"
            previous = Release(previous.image, name, self._idle_slot(), "", now())
        self._replace(previous)
        return f"{previous.image} serves again."

    def settle(self) -> None:
        """Put in order what an earlier call left when it was killed."""
        state = self.state
        self.engine.run("version")  # nothing is begun that could not be ended
        self.proxy.active()
        smoke_photos(self._smoke)
        if state.candidate is None:
            return
        if state.phase == "draining":
            say(f"the last deploy was cut off after the switch; finishing it: {state.candidate.image}")
            self._finish(state.candidate)
        else:
            say(f"the last deploy was cut off while {state.phase}; {state.candidate.container} is taken back")
            self._take_back(state.candidate)

    def _idle_slot(self) -> str:
        active = self.state.active
        return "green" if active and active.slot == "blue" else "blue"

    def _replace(self, candidate: Release) -> None:
        """Start, prove, switch, verify, drain."""
        state = self.state
        state.candidate, state.phase = candidate, "starting"
        self.books.save()
        try:
            self.proxy.close(candidate.slot)
            say(f"start {candidate.container} in the {candidate.slot} slot")
            self.engine.start(candidate)
            candidate = self._prove(candidate)
            state.candidate, state.phase = candidate, "switching"
            self.books.save()
            say(f"switch to {candidate.slot}")
            self.proxy.open(candidate.slot)
            self.proxy.switch(candidate.slot)
            self._verify(candidate)
        except RefusedError as error:
            log = self.engine.log(candidate.container)
            self._take_back(candidate)
            self.books.note("refused", image=candidate.image, reason=str(error))
            serving = f"{state.active.image} serves on" if state.active else "nothing served before"
            raise RefusedError(
                f"{error}\n--- log of {candidate.container} ---\n{log}\n---\n{serving}."
            ) from error
        state.phase = "draining"
        self.books.save()
        self._finish(candidate)

    def _prove(self, candidate: Release) -> Release:
        """The candidate is ready, is the right image and answers rightly; return it with its model."""
        url = f"http://127.0.0.1:{PORTS[candidate.slot]}"
        began = time.monotonic()
        restarts = self.engine.restarts(candidate.container)

        def alive() -> None:
            name = candidate.container
            if not self.engine.running(name) or self.engine.restarts(name) > restarts:
                raise RefusedError("check 'ready' failed: the container ended by itself.")

        model = validate(url, candidate.digest, self._smoke, self._key, self._ready_seconds, alive)
        self._check_model(candidate, model)
        say(f"ready and right after {time.monotonic() - began:.1f} s: model {model['version']}")
        return Release(candidate.image, candidate.container, candidate.slot, model["version"], now())

    def _check_model(self, candidate: Release, model: dict[str, str]) -> None:
        """The model served is the one that the image's label names."""
        inspect = self.engine.run(
            "inspect", "--format", '{{index .Config.Labels "model.sha256"}}', candidate.container
        )
        label = inspect.stdout.strip()
        if re.fullmatch("[0-9a-f]{64}", label) and label != model["sha256"]:
            raise RefusedError(
                f"check 'model' failed: the label says {label[:12]}, and {model['sha256'][:12]} is served."
            )

    def _verify(self, candidate: Release) -> None:
        """The public address answers as the candidate, several times in a row, and predicts."""
        for _ in range(10):
            if not self._serves(candidate):
                raise RefusedError(
                    f"check 'public' failed: {self.proxy.url} does not answer as the new release."
                )
            time.sleep(0.1)
        smoke(self.proxy.url, self._smoke, self._key)

    def _serves(self, release: Release) -> bool:
        status, text = request(f"{self.proxy.url}/health")
        return (
            status == 200
            and fields(text).get("deployment") == release.digest
            and self.engine.running(release.container)
        )

    def _take_back(self, candidate: Release) -> None:
        """All traffic to the active release, and the candidate away; the one kept for rollback stays."""
        state = self.state
        if state.active:
            with contextlib.suppress(RefusedError):  # it may have died too: the candidate goes all the same
                self.proxy.open(state.active.slot)
            self.proxy.switch(state.active.slot)
        self.proxy.close(candidate.slot)
        if state.previous and candidate.container == state.previous.container:
            self.engine.stop(candidate.container)
        else:
            self.engine.remove(candidate.container)
        state.candidate, state.phase = None, "idle"
        self.books.save()

    def _finish(self, candidate: Release) -> None:
        """Drain and stop the old release, and keep it; forget the one before it."""
        state = self.state
        old, oldest = state.active, state.previous
        if old:
            say(f"drain {old.container}")
            with contextlib.suppress(RefusedError):  # what is still open is the service's own to drain
                wait_for(lambda: self.proxy.open_requests(old.slot) == 0, 30, "requests are still open")
            self.proxy.close(old.slot)
            self.engine.stop(old.container)
        if oldest and oldest.container != candidate.container:
            self.engine.remove(oldest.container)
        state.active, state.previous, state.candidate, state.phase = candidate, old, None, "idle"
        self.books.save()
        self.books.note("deployed", image=candidate.image, model=candidate.model)


def say(text: str) -> None:
    """Progress, for a person."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
