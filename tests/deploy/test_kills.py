"""At every step of a deploy callers are answered, and the next call recovers from a kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.conftest import Host, Steps


@pytest.mark.parametrize("what", ["a deploy", "a rollback", "a refused deploy"])
def test_a_caller_is_answered_at_every_step(host: Host, steps: Steps, what: str):
    """Before each command and each write, a container is behind the public address."""
    host.deploy(host.image("first"))
    if what == "a rollback":
        host.deploy(host.image("second"))
    seen: list[tuple[str, str]] = []
    steps.watcher = lambda step: seen.append((step, host.serving()))
    call(host, what)
    assert len(seen) > 20
    assert [(step, answer) for step, answer in seen if not answer.startswith("sha256:")] == []


def call(host: Host, what: str) -> None:
    """Deploy a good image, roll back, or deploy an image that fails a check."""
    words = {
        "a deploy": ("deploy", host.image("second")),
        "a rollback": ("rollback",),
        "a refused deploy": ("deploy", host.image("bad", label="b" * 64)),
    }
    assert host.call(*words[what]).status == (what == "a refused deploy")


class Killed(BaseException):
    """Simulates SIGKILL: nothing in deploy.py catches it."""


LOOKS = ("engine inspect", "engine logs", "engine version", "haproxy get", "haproxy show")
"""Steps without an effect: a kill before one equals a kill before the next step."""


@pytest.mark.parametrize(
    ("what", "first"),
    [
        *(("a deploy", False), ("a rollback", False), ("a refused deploy", False)),
        *(("a deploy", True), ("a refused deploy", True)),
    ],
)
def test_the_next_deploy_recovers_from_a_kill_at_any_step(host: Host, steps: Steps, what: str, first: bool):
    """Whatever had been done and saved: no manual repair is needed, and every caller is answered."""
    host.deploy(host.image("one"))
    host.deploy(host.image("two"))
    survived = 0
    while True:
        if first:
            host.empty()
        remaining = iter(range(survived))

        def die(step: str, remaining: Iterator[int] = remaining) -> None:
            if not step.startswith(LOOKS) and next(remaining, None) is None:
                raise Killed(step)

        steps.watcher = die
        try:
            call(host, what)
        except Killed:
            survived += 1
        else:
            break  # every step has been tried
        seen: list[str] = []
        steps.watcher = lambda step, seen=seen: seen.append(f"{host.serving()} at {step}")
        good = host.image(f"good-{survived}")
        host.deploy(good)
        steps.watcher = lambda _: None
        assert first or [answer for answer in seen if not answer.startswith("sha256:")] == []
        host.assert_in_order(good, kept=(host.state["previous"] or {}).get("image"))
    assert survived > 8


@pytest.mark.parametrize("phase", ["starting", "switching"])
def test_an_interrupted_deploy_does_not_block_the_next_even_if_the_release_has_died(
    host: Host, steps: Steps, phase: str
):
    """There is no release to return the traffic to, so a good image is needed all the more."""
    first, second, third = (host.image(name) for name in ("first", "second", "third"))
    host.deploy(first)

    def die(step: str) -> None:
        if step.startswith("haproxy") and host.state["phase"] == phase:
            raise Killed(step)

    steps.watcher = die
    with pytest.raises(Killed):
        host.call("deploy", second)
    steps.watcher = lambda _: None
    host.engine.containers[host.state["active"]["container"]].stop()
    host.deploy(third)
    host.assert_in_order(third, first)


def test_a_candidate_is_removed_even_if_the_release_has_died(host: Host):
    """The refusal names the fault of the candidate, not of the release."""
    first = host.image("first")
    host.deploy(first)
    host.engine.containers[host.state["active"]["container"]].stop()
    done = host.call("deploy", host.image("bad", label="b" * 64))
    assert done.status == 1
    assert "check 'model' failed" in done.err
    assert set(host.engine.containers) == {host.state["active"]["container"]}
    assert host.state["phase"] == "idle"
    host.deploy(host.image("good"))
