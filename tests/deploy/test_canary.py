"""A candidate with a share of the traffic: what takes it back, and what the comparison can know."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from host import canary
from host.canary import Counts
from tests.deploy.conftest import Host
from tests.deploy.stand_ins import photo


def traffic(host: Host, requests: int) -> Callable[[], None]:
    """Return what sends photos through haproxy, cats and dogs in turn."""

    def send() -> None:
        if host.haproxy.active == "canary":
            for number in range(requests):
                host.haproxy.answer("/predict", photo(("cat", "dog")[number % 2]), {})

    return send


def baked(host: Host, requests: int = 40, *options: str, **what: object) -> str:
    """Deploy a candidate with a tenth of the traffic onto a good release; return what was printed."""
    host.deploy(host.image("first"))
    host.clock.meanwhile = traffic(host, requests)
    done = host.call("deploy", host.image("second", **what), "--canary", 10, "--bake", "1m", *options)
    return done.out + done.err


def test_a_good_candidate_gets_all_the_traffic_after_the_bake(host: Host):
    """Ten looks, each with the counts of both."""
    out = baked(host)
    host.assert_in_order(host.image("second"), host.image("first"))
    assert "10 % of the traffic for 60 s" in out
    assert out.count("% of the bake: ") == canary.LOOKS
    assert host.clock.seconds > 60
    assert "0 failed; the active release" in out


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"fails_after": 3}, "check 'canary' failed: it fails in "),
        ({"dogs_after": 3}, "it predicts dog in "),
    ],
)
def test_a_candidate_that_is_worse_is_taken_back_before_the_end(host: Host, what: dict, words: str):
    """With the counts behind the judgement; the share of callers who met it is small."""
    out = baked(host, 200, **what)
    assert words in out
    assert "(p = " in out
    assert host.clock.seconds < 40
    host.assert_in_order(host.image("first"))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"dogs_after": 3}, "check 'smoke' failed: cat.jpg was predicted as dog"),
        ({"fails_after": 3}, "check 'canary' failed: it fails in "),
    ],
)
def test_a_retrained_candidate_may_predict_otherwise_in_the_bake(host: Host, what: dict, words: str):
    """A better model of a world that has changed does; failures and the smoke photos still take it back."""
    out = baked(host, 200, "--retrained", **what)
    assert words in out
    assert "it predicts" not in out
    host.assert_in_order(host.image("first"))


def test_too_few_requests_are_no_proof(host: Host):
    """Three requests without a failure say nothing."""
    out = baked(host, 0)
    assert "0 requests in 60 s are too few to notice that 10% of them fail. Give it more" in out
    host.assert_in_order(host.image("first"))


def test_a_candidate_that_dies_in_the_bake_is_taken_back(host: Host):
    """Its requests go to the active release meanwhile."""
    host.deploy(host.image("first"))

    def kill() -> None:
        if host.haproxy.active == "canary":
            host.engine.containers[host.state["candidate"]["container"]].stop()

    host.clock.meanwhile = kill
    done = host.call("deploy", host.image("second"), "--canary", "10")
    assert "check 'canary' failed: the container exited" in done.err
    host.assert_in_order(host.image("first"))


def test_a_candidate_takes_over_if_the_release_dies_in_the_bake(host: Host):
    """Going back would be going back to nothing."""
    host.deploy(host.image("first"))

    def kill() -> None:
        if host.haproxy.active == "canary":
            host.engine.containers[host.state["active"]["container"]].stop()

    host.clock.meanwhile = kill
    assert (
        "has died during the bake: the candidate takes over"
        in host.call("deploy", host.image("second"), "--canary", "10").out
    )
    host.clock.meanwhile = lambda: None
    host.assert_in_order(host.image("second"), host.image("first"))


@pytest.mark.parametrize(
    "words", [("--canary", "100"), ("--canary", "-1"), ("--canary", "x"), ("--bake", "10"), ("--bake", "5 m")]
)
def test_a_share_and_a_time_that_make_no_sense_are_refused(host: Host, words: tuple[str, str]):
    """As any wrong call, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        host.call("deploy", host.image("first"), *words)


def test_the_first_deploy_has_nothing_to_compare_with(host: Host):
    """It gets all the traffic at once."""
    assert host.call("deploy", host.image("first"), "--canary", "10").status == 0
    host.assert_in_order(host.image("first"))


def test_fisher_s_test_has_the_value_of_his_own_example():
    """The tea tasting: three of four cups right, then four of four (The Design of Experiments, 1935)."""
    assert canary.more_often(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert canary.more_often(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert canary.more_often(0, 9, 5, 90) == 1.0


def drawn(generator: random.Random, n: int, failing: float) -> Counts:
    """Draw what a container counts."""
    failed = sum(generator.random() < failing for _ in range(n))
    cats = sum(generator.random() < 0.5 for _ in range(n - failed))
    return Counts(n, failed, n - failed, 0, Counter({'label="cat"': cats, 'label="dog"': n - failed - cats}))


def test_an_equal_candidate_is_hardly_ever_taken_back_and_a_bad_one_nearly_always():
    """At the size that `noticed` asks for, by simulation: 10 looks, 400 bakes each."""
    generator = random.Random(1)
    n = next(n for n in range(10, 500) if canary.noticed(drawn(generator, n, 0), drawn(generator, 9 * n, 0)))
    assert 60 < n < 130

    def taken_back(failing: float) -> int:
        bakes = 0
        for _ in range(400):
            new, old = Counts(), Counts()
            for _ in range(canary.LOOKS):
                for side, more in (
                    (new, drawn(generator, n // 10, failing)),
                    (old, drawn(generator, 9 * n // 10, 0.001)),
                ):
                    side.requests += more.requests
                    side.failed += more.failed
                    side.answered += more.answered
                    side.labels.update(more.labels)
                if canary.differences(new, old):
                    bakes += 1
                    break
        return bakes

    assert taken_back(0.001) <= 8
    assert taken_back(0.15) >= 0.9 * 400
