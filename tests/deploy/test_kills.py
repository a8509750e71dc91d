"""At every step of a deploy a caller is answered, and a kill is put in order by the next call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.conftest import Host, Steps


@pytest.mark.parametrize("what", ["a deploy", "a rollback", "a refused deploy"])
def test_a_caller_is_answered_at_every_step(host: Host, steps: Steps, what: str):
    """Before each command and each file written, the public address has a container behind it."""
    host.deploy(host.image("first"))
    if what == "a rollback":
        host.deploy(host.image("second"))
    seen: list[tuple[str, str]] = []
    steps.watcher = lambda step: seen.append((step, host.serving()))
    call(host, what)
    assert len(seen) > 20
    assert [(step, said) for step, said in seen if not said.startswith("sha256:")] == []


def call(host: Host, what: str) -> None:
    """Deploy a good image, roll back, or deploy an image that is refused."""
    words = {
        "a deploy": ("deploy", host.image("second")),
        "a rollback": ("rollback",),
        "a refused deploy": ("deploy", host.image("bad", label="b" * 64)),
    }
    assert host.call(*words[what]).status == (what == "a refused deploy")


class Killed(BaseException):
    """SIGKILL, as far as this process can be its own victim: nothing in deploy.py catches it."""


LOOKS = ("engine inspect", "engine logs", "engine version", "haproxy get", "haproxy show")
"""Steps that change nothing: a kill before one is a kill before the step after it."""


@pytest.mark.parametrize(
    ("what", "first"),
    [
        *(("a deploy", False), ("a rollback", False), ("a refused deploy", False)),
        *(("a deploy", True), ("a refused deploy", True)),
    ],
)
def test_a_kill_at_any_step_is_put_in_order_by_the_next_deploy(
    host: Host, steps: Steps, what: str, first: bool
):
    """Whatever was done and written so far: it works without a hand on a file, and no caller is let down."""
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
            break  # the whole of it has been tried, step by step
        seen: list[str] = []
        steps.watcher = lambda step, seen=seen: seen.append(f"{host.serving()} at {step}")
        good = host.image(f"good-{survived}")
        host.deploy(good)
        steps.watcher = lambda _: None
        assert first or [said for said in seen if not said.startswith("sha256:")] == []
        host.assert_in_order(good, kept=(host.state["previous"] or {}).get("image"))
    assert survived > 8


@pytest.mark.parametrize("phase", ["starting", "switching"])
def test_a_deploy_cut_off_blocks_none_after_it_though_the_release_has_died(
    host: Host, steps: Steps, phase: str
):
    """There is nothing to give the traffic back to, and a good image is all the more welcome."""
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


def test_a_candidate_goes_though_the_release_has_died_meanwhile(host: Host):
    """The refusal says what was wrong with the candidate, not with the release."""
    first = host.image("first")
    host.deploy(first)
    host.engine.containers[host.state["active"]["container"]].stop()
    done = host.call("deploy", host.image("bad", label="b" * 64))
    assert done.status == 1
    assert "check 'model' failed" in done.err
    assert set(host.engine.containers) == {host.state["active"]["container"]}
    assert host.state["phase"] == "idle"
    host.deploy(host.image("good"))
