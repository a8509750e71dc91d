"""The steps of a deploy and of a rollback, and the recovery when one fails."""

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
    """Deploys and rolls back the service on this host."""

    def __init__(
        self, books: Books, engine: Containers, proxy: Proxy, smoke: Path, ready_seconds: float, key: str
    ) -> None:
        self.books, self.engine, self.proxy = books, engine, proxy
        self._smoke, self._ready_seconds, self._key = smoke, ready_seconds, key

    @property
    def state(self) -> State:
        """The saved state of this host."""
        return self.books.state

    def deploy(self, image: str) -> str:
        """Replace the active release by `image`; return the closing message.

        Raises:
            RefusedError: a check failed; the active release keeps serving.
        """
        self.settle()
        active = self.state.active
        if active and active.image == image and self._serves(active):
            return f"{image} is serving already."
        say(f"pull {image}")
        self.engine.run("pull", image)
        digest = image.rsplit(":", 1)[-1]
        slot = self._idle_slot()
        self._replace(Release(image, f"cats-dogs-{digest[:12]}-{uuid.uuid4().hex[:6]}", slot, "", now()))
        return f"{image} serves, model {self.state.active.model if self.state.active else '?'}."

    def rollback(self) -> str:
        """Return to the previous release; return the closing message.

        Raises:
            RefusedError: there is no previous release, or a check failed.
        """
        if self.state.candidate or self.state.previous:
            self.settle()
        previous = self.state.previous
        if previous is None:
            raise RefusedError(
                "There is no earlier release on this host to roll back to. Deploy the digest that you want."
            )
        if previous.slot != self._idle_slot():  # the active release is in its slot: it needs a new container
            name = f"{previous.container.rsplit('-', 1)[0]}-{uuid.uuid4().hex[:6]}"
            previous = Release(previous.image, name, self._idle_slot(), "", now())
        self._replace(previous)
        return f"{previous.image} serves again."

    def settle(self) -> None:
        """Finish or revert what an earlier call left unfinished when it was killed."""
        state = self.state
        self.engine.run("version")  # without an engine, stop before anything changes
        self.proxy.active()
        smoke_photos(self._smoke)
        if state.candidate is None:
            return
        if state.phase == "draining":
            say(f"the last deploy was interrupted after the switch; finish it: {state.candidate.image}")
            self._finish(state.candidate)
        else:
            say(
                f"the last deploy was interrupted while {state.phase}; revert it: {state.candidate.container}"
            )
            self._revert(state.candidate)

    def _idle_slot(self) -> str:
        active = self.state.active
        return "green" if active and active.slot == "blue" else "blue"

    def _replace(self, candidate: Release) -> None:
        """Start, check, switch, verify, drain; revert if a step fails."""
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
            self._revert(candidate)
            self.books.note("refused", image=candidate.image, reason=str(error))
            serving = f"{state.active.image} keeps serving" if state.active else "Nothing was serving before"
            raise RefusedError(
                f"{error}\n--- log of {candidate.container} ---\n{log}\n---\n{serving}."
            ) from error
        state.phase = "draining"
        self.books.save()
        self._finish(candidate)

    def _prove(self, candidate: Release) -> Release:
        """Wait for the candidate and check its identity, model and predictions; return it with its model."""
        url = f"http://127.0.0.1:{PORTS[candidate.slot]}"
        began = time.monotonic()
        restarts = self.engine.restarts(candidate.container)

        def alive() -> None:
            name = candidate.container
            if not self.engine.running(name) or self.engine.restarts(name) > restarts:
                raise RefusedError("check 'ready' failed: the container exited; its log is below.")

        model = validate(url, candidate.digest, self._smoke, self._key, self._ready_seconds, alive)
        self._check_model(candidate, model)
        say(f"ready and checked after {time.monotonic() - began:.1f} s: model {model['version']}")
        return Release(candidate.image, candidate.container, candidate.slot, model["version"], now())

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

    def _verify(self, candidate: Release) -> None:
        """Check that the public address reports the candidate ten times in a row, and predicts correctly."""
        for _ in range(10):
            if not self._serves(candidate):
                raise RefusedError(
                    f"check 'public' failed: {self.proxy.url} does not report the new release. "
                    "Is --url the address of this host's haproxy?"
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

    def _revert(self, candidate: Release) -> None:
        """Return all traffic to the active release and remove the candidate; keep the one for rollback."""
        state = self.state
        if state.active:
            with contextlib.suppress(RefusedError):  # if it has died too, the candidate still goes
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
        """Drain, stop and keep the old release; remove the one before it."""
        state = self.state
        old, oldest = state.active, state.previous
        if old:
            say(f"drain {old.container}")
            with contextlib.suppress(RefusedError):  # the service drains the rest itself
                wait_for(lambda: self.proxy.open_requests(old.slot) == 0, 30, "requests are still open")
            self.proxy.close(old.slot)
            self.engine.stop(old.container)
        if oldest and oldest.container != candidate.container:
            self.engine.remove(oldest.container)
        state.active, state.previous, state.candidate, state.phase = candidate, old, None, "idle"
        self.books.save()
        self.books.note("deployed", image=candidate.image, model=candidate.model)


def say(text: str) -> None:
    """Print a progress line with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
