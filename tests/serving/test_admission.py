"""The admission policy alone: numbers in, a verdict out."""

from __future__ import annotations

import pytest

from serving.contract.errors import Overloaded
from serving.engine.admission import FIRST_GUESS_SECONDS, ByAverage
from serving.engine.job import Job


def check(
    admission: ByAverage, *, waiting: int, computing: int, remaining_seconds: float, photos: int = 1
) -> None:
    """Ask for one more request, with others before it."""
    job = Job(b"", 0, 0, None, loop=None)
    admission.check(
        [job] * photos,
        waiting=[job] * waiting,
        computing=[job] * computing,
        remaining_seconds=remaining_seconds,
    )


def policy(photo_seconds: float = 0.1, **options: float) -> ByAverage:
    """A policy that knows how long a photo takes."""
    admission = ByAverage(
        **{"workers": 2, "queue_size": 10, "deadline_seconds": 2.0, "queue_seconds": 1e9} | options
    )
    for _ in range(200):
        admission.learn(photo_seconds)
    return admission


def test_the_expected_time_grows_with_what_is_ahead_and_shrinks_with_workers():
    """The requests ahead per worker, and itself, with a margin of a quarter."""
    assert policy().expected_seconds(0) == pytest.approx(1.25 * 0.1)
    assert policy().expected_seconds(4) == pytest.approx(1.25 * (4 / 2 * 0.1 + 0.1))
    assert policy(workers=4).expected_seconds(4) == pytest.approx(1.25 * (4 / 4 * 0.1 + 0.1))


def test_the_mean_follows_slowly():
    """One slow photo moves it by a tenth of the difference, and counts for at most ten times the average."""
    admission = ByAverage(workers=1, queue_size=1, deadline_seconds=1, queue_seconds=1)
    assert admission.wait_seconds(1) == FIRST_GUESS_SECONDS
    admission.learn(FIRST_GUESS_SECONDS + 0.1)
    assert admission.wait_seconds(1) == pytest.approx(FIRST_GUESS_SECONDS + 0.01)
    admission.learn(1000)
    assert admission.wait_seconds(1) == pytest.approx(1.9 * (FIRST_GUESS_SECONDS + 0.01))


def test_a_request_that_can_be_in_time_passes():
    """As long as the expected time does not exceed the remaining time."""
    admission = policy()
    check(admission, waiting=4, computing=2, remaining_seconds=admission.expected_seconds(6))
    with pytest.raises(Overloaded, match=r"would take 0\.5 s, more than the 2 s that are allowed") as refused:
        check(admission, waiting=4, computing=2, remaining_seconds=admission.expected_seconds(6) - 0.25)
    assert refused.value.reason == "too-slow"
    assert refused.value.retry_after_seconds == pytest.approx(0.25)


def test_an_idle_engine_takes_even_what_will_be_late():
    """Otherwise one slow photo would close the service for good: nothing would be measured again."""
    check(policy(photo_seconds=10), waiting=0, computing=0, remaining_seconds=2)
    with pytest.raises(Overloaded):
        check(policy(photo_seconds=10), waiting=0, computing=1, remaining_seconds=2)


def test_a_full_queue_refuses_whatever_the_deadline():
    """It says after how long the queue has moved on."""
    with pytest.raises(Overloaded, match="The queue is full: 10 requests are waiting") as refused:
        check(policy(), waiting=10, computing=2, remaining_seconds=1000)
    assert refused.value.reason == "queue-full"
    assert refused.value.retry_after_seconds == pytest.approx(12 / 2 * 0.1)


def test_the_operator_may_allow_less_waiting_than_the_deadline():
    """The queue budget bounds the wait alone: an idle engine's photo may take what it takes."""
    admission = policy(queue_seconds=0.2)
    check(admission, waiting=1, computing=2, remaining_seconds=2)
    with pytest.raises(Overloaded, match=r"would take 0\.4 s, more than the 0\.2 s that are allowed"):
        check(admission, waiting=2, computing=2, remaining_seconds=2)


def test_the_photos_of_one_request_are_admitted_together():
    """By when the last of them is answered; an idle engine takes a request of any length."""
    admission = policy()
    in_time = admission.expected_seconds(5)
    check(admission, waiting=1, computing=2, photos=3, remaining_seconds=in_time)
    with pytest.raises(Overloaded, match="would take"):
        check(admission, waiting=1, computing=2, photos=4, remaining_seconds=in_time)
    with pytest.raises(Overloaded, match="The queue is full"):
        check(admission, waiting=8, computing=0, photos=3, remaining_seconds=1000)
    check(admission, waiting=0, computing=0, photos=11, remaining_seconds=0.01)
